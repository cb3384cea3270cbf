"""Writes files beside training: one job at a time, on a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class Writer:
    """One background thread; a job that failed raises at the next call."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="writer")
        self._running: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a job is being written."""
        return self._running is not None and not self._running.done()

    def submit(self, job: Callable[[], None]) -> None:
        """Start a job, once the one before it is done."""
        self.wait()
        self._running = self._pool.submit(job)

    def wait(self) -> None:
        """Return when nothing is being written, or raise what stopped the last job."""
        if self._running is not None:
            self._running.result()
            self._running = None

    def close(self) -> None:
        """Finish the last job and end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()
