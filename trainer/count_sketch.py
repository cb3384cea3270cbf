"""About how often ids were seen, in memory that does not grow with their number."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.idmap import Ints

_DEPTH = 4


class CountSketch:
    """A count-min sketch (Cormode and Muthukrishnan 2005, section 3): never too low, seldom too high.

    Counts are a function of the ids added, in whatever order and however divided.

    Shapes: ids and counts int64[n]; `counters` int32[4,W], W a power of two above twice `capacity`.

    Example:
        >>> sketch = CountSketch(100, seed=0)
        >>> sketch.add(np.array([7, 9]), np.array([1, 2])).tolist()
        [1, 2]
        >>> sketch.add(np.array([7]), np.array([1])).tolist()
        [2]
    """

    def __init__(self, capacity: int, *, seed: int) -> None:
        num_bits = (2 * capacity).bit_length()
        self._shift = np.uint64(64 - num_bits)
        random = np.random.default_rng(seed)
        # Multiply-shift (Dietzfelbinger et al. 1997) wants odd factors.
        self._factors = random.integers(0, 2**63, (_DEPTH, 1), dtype=np.uint64) * 2 + 1
        self.counters: npt.NDArray[np.int32] = np.zeros((_DEPTH, 1 << num_bits), np.int32)

    def add(self, ids: Ints, counts: Ints) -> Ints:
        """Count distinct ids, each so often, and return how often each was seen by now."""
        mixed = ids.view(np.uint64)
        slots = ((mixed ^ (mixed >> np.uint64(32))) * self._factors) >> self._shift
        found = []
        for counters, at in zip(self.counters, slots.view(np.int64), strict=True):
            np.add.at(counters, at, counts.astype(np.int32))
            found.append(counters[at])
        return np.min(found, axis=0).astype(np.int64)

    def halve(self) -> None:
        """Let all that was counted weigh half."""
        self.counters >>= 1
