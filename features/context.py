"""Context tokens: a slow feature of the user becomes a token when it takes a new value.

What events say of a feature is kept beside them until they are emitted; only then, in the order of
time, is it known which of it was new. So a late arrival within the bound changes nothing, and no
message sees a value that one of its own targets brought.
"""

from __future__ import annotations

import hashlib
import struct
from functools import lru_cache
from typing import Any

import msgspec

from features.sequences import CONTEXT_BIT, TOKEN_STRUCT, context_id

# Of an event: its time and offset, and the key of a feature and of the value it had.
_OBSERVATION = struct.Struct("<qqqq")
# The newest value of a feature.
_VALUE = struct.Struct("<qq")

# Longer values are hashed each time, so that the cache is bounded in bytes too.
_MAX_CACHED = 64

_encoder = msgspec.json.Encoder(order="sorted")


class ContextReader:
    """Turns what events say of the configured features into context tokens.

    Args:
        features: names in an event's `context`; what else stands there is no token.
    """

    def __init__(self, features: tuple[str, ...]) -> None:
        self._keys = {name: _feature_key(name) for name in features}

    def observe(self, context: dict[str, Any], time_ms: int, offset: int) -> bytes:
        """What an event says of the features, as records to keep until it is emitted."""
        return b"".join(
            [
                _OBSERVATION.pack(time_ms, offset, key, context_token_id(name, context[name]))
                for name, key in self._keys.items()
                if name in context
            ]
        )

    def emit(
        self, observed: bytes, until_ms: int, newest: bytes
    ) -> tuple[list[bytes], bytes, bytes]:
        """The tokens of every change up to a time.

        Args:
            observed: records of `observe`, in any order.
            until_ms: what happened later is not looked at.
            newest: the newest value of each feature, as this returned it last.

        Returns:
            TOKEN records in the order of time, the records not looked at, and the newest values; a
            feature no longer configured is forgotten.
        """
        values = dict(_VALUE.iter_unpack(newest))
        tokens: list[bytes] = []
        left: list[bytes] = []
        # Those of one event stay in the order of the configuration.
        in_order = sorted(_OBSERVATION.iter_unpack(observed), key=lambda seen: seen[:2])
        for time_ms, offset, key, value in in_order:
            if time_ms > until_ms:
                left.append(_OBSERVATION.pack(time_ms, offset, key, value))
            elif values.get(key) != value:
                values[key] = value
                tokens.append(TOKEN_STRUCT.pack(value, time_ms, 0, 0, CONTEXT_BIT))
        known = [(key, values[key]) for key in self._keys.values() if key in values]
        return tokens, b"".join(left), b"".join([_VALUE.pack(*each) for each in known])


def context_token_id(feature: str, value: object) -> int:
    """The `item_id` of a feature's value: a text stands for itself, anything else for its JSON.

    Example:
        >>> context_token_id("age", 7) == context_id("age", "7") != context_id("age", "8")
        True
    """
    text = value if type(value) is str else _encoder.encode(value).decode()
    return _short_id(feature, text) if len(text) <= _MAX_CACHED else context_id(feature, text)


_short_id = lru_cache(65_536)(context_id)


def _feature_key(name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def in_time_order(tokens: list[bytes]) -> bytes:
    """TOKEN records joined in the order of time; those of one time stay as they stood."""
    timed = [(int.from_bytes(token[8:16], "little"), at) for at, token in enumerate(tokens)]
    return b"".join([tokens[at] for _, at in sorted(timed)])
