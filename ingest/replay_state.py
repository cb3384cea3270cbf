"""How far a replay or a redrive came, in a file that is replaced whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from ingest.runtime.errors import FreshetError


class ReplayStateError(FreshetError):
    """Saved progress that does not belong to this replay, or cannot be read."""


class ReplayState(msgspec.Struct, frozen=True, kw_only=True):
    """Rows before `next_row` are confirmed; `flushed` once the closing heartbeats are, too."""

    next_row: int
    flushed: bool = False


class RedriveState(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets of `events.dead` that were sent again, as [first, last] ranges, ascending."""

    redriven: list[tuple[int, int]]


State = TypeVar("State", bound=msgspec.Struct)


class _Saved(msgspec.Struct, Generic[State], frozen=True, kw_only=True, forbid_unknown_fields=True):
    identity: dict[str, str | int]
    state: State


class StateFile(Generic[State]):
    """Progress of one piece of work on one Kafka cluster.

    Args:
        state: the type of what is saved.
        identity: of the log and the cluster; progress of another one is refused.
        hint: what to do about progress that is refused.
    """

    def __init__(
        self,
        path: Path,
        state: type[State],
        identity: dict[str, str | int],
        *,
        hint: str = "replay with --restart, or with another --state-directory",
    ) -> None:
        self.path = path
        self._saved: Any = _Saved[state]  # type: ignore[valid-type]
        self._identity = identity
        self._hint = hint
        path.parent.mkdir(parents=True, exist_ok=True)

    def load(self) -> State | None:
        """What was saved, None when nothing was.

        Raises:
            ReplayStateError: it is about another log or cluster, or damaged.
        """
        if not self.path.exists():
            return None
        try:
            saved: _Saved[State] = msgspec.json.decode(self.path.read_bytes(), type=self._saved)
        except msgspec.DecodeError as error:
            raise ReplayStateError(
                "saved progress cannot be read",
                detail=f"{self.path}: {error}.",
                hint=self._hint,
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
                hint=self._hint,
            )
        return saved.state

    def save(self, state: State) -> None:
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
