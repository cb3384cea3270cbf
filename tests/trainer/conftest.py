"""One rank of one, for tests that build tables."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from trainer.ranks import Ranks, join_ranks, leave_ranks


@pytest.fixture(scope="session")
def alone() -> Iterator[Ranks]:
    ranks = join_ranks()
    yield ranks
    leave_ranks()
