"""Which of a user's pending tokens may leave, and how they are cut into messages."""

from __future__ import annotations

from itertools import accumulate

from features.tokens import Token


def cuts(tokens: list[Token], next_ms: int) -> list[int]:
    """Every length of prefix all of whose events happened strictly before any later token opened.

    Between such a prefix and what follows, the one may be history to the other without peeking.

    Args:
        tokens: by first event time.
        next_ms: when the first token after these opened.

    Example:
        >>> def token(first_ms: int, last_ms: int) -> Token:
        ...     return Token(first_ms, 0, 1, -1, 0, 1, last_ms, 0, 0, 1)
        >>> tokens = [token(10, 40), token(20, 20), token(50, 50), token(50, 90)]
        >>> cuts(tokens, next_ms=91), cuts(tokens, next_ms=90)
        ([2, 4], [2])
    """
    if len(tokens) < 2:
        return [1] if tokens and tokens[0].last_ms < next_ms else []
    newest_ms = accumulate([token.last_ms for token in tokens], max)
    followers_ms = [*[token.first_ms for token in tokens[1:]], next_ms]
    pairs = enumerate(zip(newest_ms, followers_ms, strict=True), start=1)
    return [end for end, (last_ms, first_ms) in pairs if last_ms < first_ms]


def split(ends: list[int], max_targets: int) -> list[tuple[int, int]]:
    """Cut a prefix into runs of at most `max_targets` tokens, each ending at one of `ends`.

    A run is longer only where overlap leaves no nearer end.

    Example:
        >>> split([1, 2, 3, 9, 10], max_targets=2)
        [(0, 2), (2, 3), (3, 9), (9, 10)]
    """
    if ends and ends[-1] <= max_targets:
        return [(0, ends[-1])]
    runs: list[tuple[int, int]] = []
    start = reached = 0
    for end in ends:
        if end - start > max_targets and reached > start:
            runs.append((start, reached))
            start = reached
        reached = end
    if reached > start:
        runs.append((start, reached))
    return runs
