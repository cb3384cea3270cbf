"""How far a replay came, in a file that is replaced whole."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from ingest.runtime.errors import FreshetError


class ReplayStateError(FreshetError):
    """Saved progress that does not belong to this replay, or cannot be read."""


class ReplayState(msgspec.Struct, frozen=True, kw_only=True):
    """Rows before `next_row` are confirmed; `flushed` once the closing heartbeats are, too."""

    next_row: int
    flushed: bool = False


class _Saved(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    identity: dict[str, str | int]
    state: ReplayState


class StateFile:
    """Progress of one range of one log on one Kafka cluster.

    Args:
        identity: of the log and the cluster; progress of another one is refused.
    """

    def __init__(self, path: Path, identity: dict[str, str | int]) -> None:
        self.path = path
        self._identity = identity
        path.parent.mkdir(parents=True, exist_ok=True)

    def load(self) -> ReplayState | None:
        """What was saved, None when nothing was.

        Raises:
            ReplayStateError: it is about another log or cluster, or damaged.
        """
        if not self.path.exists():
            return None
        try:
            saved = msgspec.json.decode(self.path.read_bytes(), type=_Saved)
        except msgspec.DecodeError as error:
            raise ReplayStateError(
                "saved progress cannot be read",
                detail=f"{self.path}: {error}.",
                hint="replay with --restart to send everything again",
            ) from error
        if saved.identity != self._identity:
            changed = sorted(
                name
                for name in self._identity.keys() | saved.identity.keys()
                if self._identity.get(name) != saved.identity.get(name)
            )
            raise ReplayStateError(
                "saved progress is about another log or broker",
                detail=f"{self.path} differs in: {', '.join(changed)}.",
                hint="replay with --restart, or with another --state-directory",
            )
        return saved.state

    def save(self, state: ReplayState) -> None:
        """Replace the file, so that a crash leaves the old one or the new one."""
        temporary = self.path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(_Saved(identity=self._identity, state=state)))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)

    def forget(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)
