"""How much a producer may send: token buckets, and how many bytes are held at once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from ingest.gateway.answers import RequestRefused


class TokenBuckets:
    """A bucket for each producer, refilled steadily.

    Args:
        events_per_second: refill; infinite for no quota.
        burst: size of a bucket, events.
        max_producers: buckets kept; beyond, the one longest unused is forgotten, full.
    """

    def __init__(
        self, events_per_second: float, burst: int, *, max_producers: int = 10_000
    ) -> None:
        self._rate = events_per_second
        self._burst = burst
        self._max_producers = max_producers
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, producer: str, num_events: int, now_seconds: float) -> None:
        """Take so many events out of the producer's bucket.

        Raises:
            RequestRefused: 429 when they are not in it yet, 413 when they never fit.
        """
        if math.isinf(self._rate):
            return
        if num_events > self._burst:
            raise RequestRefused(
                413,
                "batch larger than the quota's burst",
                f"{num_events} events, at most {self._burst} at once.",
                "split the batch",
            )
        level, since = self._buckets.get(producer, (float(self._burst), now_seconds))
        level = min(float(self._burst), level + (now_seconds - since) * self._rate)
        granted = level >= num_events
        self._buckets[producer] = (level - num_events if granted else level, now_seconds)
        self._buckets.move_to_end(producer)
        if len(self._buckets) > self._max_producers:
            self._buckets.popitem(last=False)
        if not granted:
            raise RequestRefused(
                429,
                "quota used up",
                f"{producer} may send {self._rate:g} events/s, {self._burst} at once.",
                "wait as long as Retry-After says",
                retry_after_seconds=math.ceil((num_events - level) / self._rate),
            )


class HeldBytes:
    """Bounds the bytes of requests that are not answered yet."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.num_bytes = 0

    @contextmanager
    def hold(self, num_bytes: int) -> Iterator[None]:
        """Hold so many bytes while inside.

        Raises:
            RequestRefused: 429 when they do not fit.
        """
        if self.num_bytes + num_bytes > self._max_bytes:
            raise RequestRefused(
                429,
                "gateway is full",
                f"{self.num_bytes} bytes wait for the broker, {num_bytes} more were sent, "
                f"{self._max_bytes} fit.",
                "send again a little later; nothing of this request was taken",
                retry_after_seconds=1,
            )
        self.num_bytes += num_bytes
        try:
            yield
        finally:
            self.num_bytes -= num_bytes
