"""The parts of the stream whose quality is looked at by themselves: who and what is new, and how new."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# A history shorter than the first bound is that of a new user.
_HISTORY_BOUNDS = (1, 8, 32, 128)
_BY_HISTORY = (
    "new_user",
    "history_1_to_7",
    "history_8_to_31",
    "history_32_to_127",
    "history_128_up",
)
SEGMENTS = (*_BY_HISTORY, "new_item")


def segments_of(history_lengths: Ints, is_new_item: Bools) -> dict[str, Bools]:
    """Which targets are in which of SEGMENTS; each is in one by its history, some are `new_item` too.

    An item is new until the step after its first target.

    Shapes: history_lengths int64[M] (tokens the model saw, at most its max_history), is_new_item
    bool[M] -> bool[M] each.

    Example:
        >>> found = segments_of(np.array([0, 40]), np.array([True, False]))
        >>> [name for name, members in found.items() if members[0]]
        ['new_user', 'new_item']
    """
    bucket = np.digitize(history_lengths, _HISTORY_BOUNDS)
    members = {name: bucket == index for index, name in enumerate(_BY_HISTORY)}
    return members | {"new_item": is_new_item}
