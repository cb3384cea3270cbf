"""A user's tokens become messages: what is a target, what history, what a correction."""

from __future__ import annotations

from features.amendments import (
    amend,
    amended,
    amendment_of,
    find_token,
    history_before,
    pack_amendments,
    settle,
    unpack_amendments,
)
from features.config import FeaturesConfig
from features.context import ContextReader, in_time_order
from features.emission import cuts, split
from features.outputs import Output
from features.sequences import (
    SESSION_START_BIT,
    TARGET_ONLY_BIT,
    TOKEN_STRUCT,
    encode_correction,
    encode_targets,
)
from features.tally import Tally
from features.tokens import NEVER_MS, RETURN_BIT, PendingEvent, Token
from features.users import User, Waiting
from ingest.events import ACTION_BITS, LONG_WATCH_BIT
from ingest.runtime.topics import SEQUENCES

_TOKEN_BYTES = TOKEN_STRUCT.size
_IMPRESSION = ACTION_BITS["impression"]
_ATTRIBUTABLE = ACTION_BITS["purchase"] | ACTION_BITS["return"]


class MessageWriter:
    """Writes the messages of one partition and keeps its users' histories.

    Args:
        config: the semantics.
        partition: named in every message.
        tally: counts targets, corrections, and what was folded or filtered.
    """

    def __init__(self, config: FeaturesConfig, partition: int, tally: Tally) -> None:
        self.context = ContextReader(config.context_features)
        self._config = config
        self._partition = partition
        self._tally = tally
        self._history_bytes = config.max_history * _TOKEN_BYTES
        # Of these actions a token may be more than a target like any other.
        self._special = RETURN_BIT
        if config.attribution_ms:
            self._special |= _ATTRIBUTABLE
        if config.impressions != "history":
            self._special |= _IMPRESSION

    def is_plain(self, user: User, waiting: Waiting, event: PendingEvent) -> bool:
        """Whether an event that leaves alone may go through `emit_plain`."""
        return not (event[5] & self._special or user.amendments or waiting.observed)

    def emit_plain(
        self, user_id: int, user: User, event: PendingEvent, clock_ms: int
    ) -> list[Output]:
        """What `emit` writes for a token of one event where `is_plain`, at a third of its cost."""
        config = self._config
        time_ms, offset, item_id, price, watch_ms, actions = event
        if watch_ms >= config.long_watch_ms:
            actions |= LONG_WATCH_BIT
        if self._begins_session(user, time_ms):
            actions |= SESSION_START_BIT
        record = TOKEN_STRUCT.pack(item_id, time_ms, price if price > 0 else 0, watch_ms, actions)
        tokens = user.history + record
        value = encode_targets(
            partition=self._partition,
            user_id=user_id,
            clock_ms=clock_ms,
            first_offset=offset,
            last_offset=offset,
            lifetime_tokens=user.lifetime_tokens,
            tokens=tokens,
            target_offsets=[offset],
        )
        user.history = _newest(tokens, self._history_bytes)
        user.lifetime_tokens += 1
        if time_ms > user.active_ms:
            user.active_ms = time_ms
        user.frontier_ms = time_ms
        self._tally.targets += 1
        return [Output(SEQUENCES, str(user_id), value)]

    def emit(
        self,
        user_id: int,
        user: User,
        waiting: Waiting,
        tokens: list[Token],
        ends: list[int],
        clock_ms: int,
    ) -> list[Output]:
        """Write the messages of tokens that leave, cut at some of `ends`, and let them be history.

        Everything before a cut happened strictly before everything after it opened; the last cut is
        behind the last token.
        """
        outputs: list[Output] = []
        kept = tokens
        if self._config.impressions == "folded":
            kept = [token for token in tokens if token.actions != _IMPRESSION]
            if len(kept) < len(tokens):
                events = sum([token.num_events for token in tokens])
                self._tally.filtered += events - sum([token.num_events for token in kept])
                ends = cuts(kept, NEVER_MS)
        for start, end in split(ends, self._config.max_targets):
            outputs += self._emit_run(user_id, user, waiting, kept[start:end], clock_ms)
        user.frontier_ms = max([token.last_ms for token in tokens])
        if waiting.observed:
            self._enter_context(user, waiting, user.frontier_ms, len(user.history))
        if user.amendments:
            self._settle(user, clock_ms)
        return outputs

    def correct(self, user_id: int, user: User, late: Token, clock_ms: int) -> list[Output] | None:
        """Let a late event correct the token it belongs to.

        Returns:
            The correction, nothing where the event sets no bit; None where the history has no such
            token, or there is no room to remember what becomes of it.
        """
        window_ms = self._config.join_window_ms
        if not late.actions & ~_ATTRIBUTABLE:
            window_ms = max(window_ms, self._config.attribution_ms)
        return self._amend(user_id, user, late, window_ms, clock_ms)

    def _emit_run(
        self, user_id: int, user: User, waiting: Waiting, run: list[Token], clock_ms: int
    ) -> list[Output]:
        """One message of targets, and the corrections that some tokens of the run are instead."""
        config, tally = self._config, self._tally
        lifetime_tokens, begins = user.lifetime_tokens, len(user.history)
        history = self._seen(user, user.history, run[0].first_ms)
        targets: list[Token] = []
        packed: list[bytes] = []
        entered: list[bytes] = []
        corrections: list[Output] = []
        for token in run:
            if config.attribution_ms and not token.actions & ~_ATTRIBUTABLE:
                user.history += b"".join(entered)
                entered.clear()
                told = self._amend(user_id, user, token, config.attribution_ms, clock_ms)
                if told is not None:
                    corrections += told
                    continue
            marks = SESSION_START_BIT if self._begins_session(user, token.first_ms) else 0
            if token.last_ms > user.active_ms:
                user.active_ms = token.last_ms
            targets.append(token)
            if config.impressions == "targets" and token.actions == _IMPRESSION:
                packed.append(token.pack(config.long_watch_ms, marks | TARGET_ONLY_BIT))
                continue
            record = token.pack(config.long_watch_ms, marks)
            packed.append(record)
            entered.append(record)
            user.lifetime_tokens += 1
        user.history += b"".join(entered)
        if waiting.observed:
            self._enter_context(user, waiting, max([token.last_ms for token in run]), begins)
        user.history = _newest(user.history, self._history_bytes)
        if not targets:
            return corrections
        tally.targets += len(targets)
        tally.folded += sum([token.num_events for token in targets]) - len(targets)
        value = encode_targets(
            partition=self._partition,
            user_id=user_id,
            clock_ms=clock_ms,
            first_offset=min([token.min_offset for token in targets]),
            last_offset=max([token.max_offset for token in targets]),
            lifetime_tokens=lifetime_tokens,
            tokens=history + b"".join(packed),
            target_offsets=[token.first_offset for token in targets],
        )
        return [Output(SEQUENCES, str(user_id), value), *corrections]

    def _begins_session(self, user: User, first_ms: int) -> bool:
        return user.active_ms < 0 or first_ms - user.active_ms > self._config.session_gap_ms

    def _enter_context(self, user: User, waiting: Waiting, until_ms: int, begins: int) -> None:
        """Put the context tokens up to a time among those of the history from byte `begins` on."""
        tokens, waiting.observed, user.context = self.context.emit(
            waiting.observed, until_ms, user.context
        )
        if tokens:
            newest = user.history[begins:]
            entered = [newest[at : at + _TOKEN_BYTES] for at in range(0, len(newest), _TOKEN_BYTES)]
            history = user.history[:begins] + in_time_order(entered + tokens)
            user.history = _newest(history, self._history_bytes)
            user.lifetime_tokens += len(tokens)

    def _amend(
        self, user_id: int, user: User, token: Token, window_ms: int, clock_ms: int
    ) -> list[Output] | None:
        """Fold a token into the newest one of its item that opened up to `window_ms` before it.

        Beyond the join window only if that sets a bit: a second purchase is a purchase of its own.
        """
        config, tally = self._config, self._tally
        since_ms = token.first_ms - window_ms
        at = find_token(user.history, token.item_id, since_ms, token.first_ms)
        if at < 0:
            return None
        record = user.history[at : at + _TOKEN_BYTES]
        _, first_ms, _, _, _ = TOKEN_STRUCT.unpack(record)
        amendments = unpack_amendments(user.amendments)
        for each in amendments:
            if (each.item_id, each.first_ms) == (token.item_id, first_ms):
                record = amend(record, each, config.long_watch_ms)
        new = amendment_of(token, first_ms)
        told = amend(record, new, config.long_watch_ms)
        changed = _bits(told) & ~_bits(record)
        if not changed and token.first_ms > first_ms + config.join_window_ms:
            return None
        if told != record:
            if len(amendments) >= config.max_amendments:
                tally.refused_amendments += 1
                return None
            user.amendments = pack_amendments([*amendments, new])
            self._settle(user, clock_ms)
        if not changed:
            tally.folded += token.num_events
            return []
        tally.corrections += 1
        tally.folded += token.num_events - 1
        history = history_before(user.history, first_ms - config.join_window_ms)
        missing = (len(user.history) - len(history)) // _TOKEN_BYTES
        value = encode_correction(
            partition=self._partition,
            user_id=user_id,
            clock_ms=clock_ms,
            offset=token.first_offset,
            lifetime_tokens=user.lifetime_tokens - missing,
            tokens=self._seen(user, history, first_ms) + told,
            changed=changed,
        )
        return [Output(SEQUENCES, str(user_id), value)]

    def _seen(self, user: User, history: bytes, before_ms: int) -> bytes:
        """Tokens of the user's history as who opens at `before_ms` may see them."""
        if not user.amendments:
            return history
        amendments = unpack_amendments(user.amendments)
        return amended(history, amendments, self._config.long_watch_ms, before_ms)

    def _settle(self, user: User, clock_ms: int) -> None:
        config = self._config
        oldest_ms = min(clock_ms - config.correction_window_ms, user.frontier_ms)
        user.history, left = settle(
            user.history,
            unpack_amendments(user.amendments),
            config.long_watch_ms,
            frontier_ms=user.frontier_ms,
            join_window_ms=config.join_window_ms,
            floor_ms=oldest_ms - max(config.join_window_ms, config.attribution_ms),
        )
        user.amendments = pack_amendments(left)


def _bits(record: bytes) -> int:
    return int.from_bytes(record[-4:], "little")


def _newest(data: bytes, limit_bytes: int) -> bytes:
    return data if len(data) <= limit_bytes else data[len(data) - limit_bytes :]
