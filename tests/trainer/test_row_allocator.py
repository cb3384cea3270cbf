"""Who gets a row and who loses it, against a model of plain dictionaries."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.count_sketch import CountSketch
from trainer.idmap import NO_ID
from trainer.row_allocator import Observed, RowAllocator

Batch = tuple[dict[int, int], int]
# Ids and in how many tokens each is seen, and how far the clock goes on.
Batches = st.lists(
    st.tuples(
        st.dictionaries(st.integers(-3, 14), st.integers(1, 4), max_size=5), st.integers(-5, 40)
    ),
    min_size=8,
    max_size=25,
)
Rules = st.fixed_dictionaries(
    {"admit_after": st.sampled_from([1, 1, 3]), "idle_ttl_ms": st.sampled_from([0, 0, 20, 100])}
)


@dataclass
class Model:
    """The rules, one id after the other; `entries` maps an id to [row, count, last seen]."""

    num_rows: int
    admit_after: int
    idle_ttl_ms: int
    entries: dict[int, list[int]] = field(default_factory=dict)
    pending: dict[int, int] = field(default_factory=dict)
    clock_ms: int = -1
    swept_ms: int = -1
    num_tokens: int = 0

    def observe(self, seen: dict[int, int], clock_ms: int) -> set[int]:
        """Take a batch and return the rows that lost their id."""
        self.clock_ms = max(self.clock_ms, clock_ms)
        for raw in seen.keys() & self.entries.keys():
            row, count, _ = self.entries[raw]
            self.entries[raw] = [row, count + seen[raw], self.clock_ms]
        evicted = self.expire()
        new = []
        for raw in sorted(seen.keys() - self.entries.keys() - {NO_ID}):
            self.pending[raw] = self.pending.get(raw, 0) + seen[raw]
            if self.admit_after == 1 or self.pending[raw] >= self.admit_after:
                new.append(raw)
        evicted |= self.make_room(len(new), keep=seen.keys())
        for raw, row in zip(new, self.free_rows(), strict=False):
            self.entries[raw] = [row, seen[raw], self.clock_ms]
        self.num_tokens += sum(seen.values())
        if self.num_tokens >= 10 * self.num_rows:
            self.num_tokens = 0
            self.pending = {raw: count // 2 for raw, count in self.pending.items()}
            self.entries = {
                raw: [r, count // 2, at] for raw, (r, count, at) in self.entries.items()
            }
        return evicted

    def free_rows(self) -> list[int]:
        return sorted(set(range(1, self.num_rows)) - {row for row, _, _ in self.entries.values()})

    def expire(self) -> set[int]:
        if not self.idle_ttl_ms or self.clock_ms - self.swept_ms < max(1, self.idle_ttl_ms // 32):
            return set()
        self.swept_ms = self.clock_ms
        return self.evict(
            [r for r, e in self.entries.items() if self.clock_ms - e[2] > self.idle_ttl_ms]
        )

    def make_room(self, num_new: int, *, keep: object) -> set[int]:
        num_missing = num_new - len(self.free_rows())
        if num_missing <= 0:
            return set()
        coldest = sorted((e[1], e[2], raw) for raw, e in self.entries.items() if raw not in keep)  # type: ignore[operator]
        return self.evict([raw for *_, raw in coldest][: max(num_missing, self.num_rows // 16)])

    def evict(self, ids: list[int]) -> set[int]:
        return {self.entries.pop(raw)[0] for raw in ids}


def observe(rows: RowAllocator, seen: dict[int, int], clock_ms: int, step: int) -> Observed:
    ids = np.array(sorted(seen), np.int64)
    counts = np.array([seen[raw] for raw in sorted(seen)], np.int64)
    return rows.observe(ids, counts, clock_ms=clock_ms, step=step)


def allocator(num_rows: int, rules: dict[str, int]) -> RowAllocator:
    return RowAllocator(num_rows, seed=3, **rules)


def ids_by_row(rows: RowAllocator) -> dict[int, int]:
    return {row: raw for row, raw in enumerate(rows.idmap.row_ids.tolist()) if raw != NO_ID}


def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sketches wide enough that no two of these ids share all counters."""
    original = CountSketch.__init__
    monkeypatch.setattr(
        CountSketch, "__init__", lambda self, _, *, seed: original(self, 1 << 10, seed=seed)
    )


@given(Batches, Rules, st.integers(2, 10))
def test_it_does_what_the_rules_say_id_by_id(
    batches: list[Batch], rules: dict[str, int], num_rows: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        exact(patch)
        rows, model = allocator(num_rows, rules), Model(num_rows, **rules)
    clock_ms = 1_000
    for step, (seen, later_ms) in enumerate(batches):
        clock_ms += later_ms
        before = ids_by_row(rows)
        copied = rows.idmap.row_ids.copy()
        observed = observe(rows, seen, clock_ms, step)
        evicted = model.observe(seen, clock_ms)
        after = ids_by_row(rows)
        assert after == {row: raw for raw, (row, _, _) in model.entries.items()}
        assert observed.evicted_rows.tolist() == sorted(evicted)
        assert observed.num_idle + observed.num_coldest == len(evicted)
        assert len(after) == len(before) + observed.num_admitted - len(evicted)
        changed = rows.changed_steps == step
        copied[changed] = rows.idmap.row_ids[changed]
        assert np.array_equal(copied, rows.idmap.row_ids)
        assert changed[rows.idmap.rows_of(np.array([*seen], np.int64))].all()


@given(Batches, Rules, st.integers(2, 10), st.integers(1, 12))
def test_saved_and_loaded_at_any_point_it_goes_on_bit_for_bit(
    batches: list[Batch], rules: dict[str, int], num_rows: int, saved_at: int
) -> None:
    whole = resumed = allocator(num_rows, rules)
    clock_ms = 1_000
    for step, (seen, later_ms) in enumerate(batches):
        clock_ms += later_ms
        if step == saved_at:
            resumed = allocator(num_rows, rules)
            resumed.load(whole.state())
        observe(whole, seen, clock_ms, step)
        if resumed is not whole:
            observe(resumed, seen, clock_ms, step)
    for name, values in whole.state().items():
        assert np.array_equal(values, resumed.state()[name]), name


def test_a_state_is_a_copy() -> None:
    rows = allocator(8, {"admit_after": 2, "idle_ttl_ms": 0})
    state = rows.state()
    kept = {name: values.copy() for name, values in state.items()}
    observe(rows, {4: 3, 7: 1}, 5, step=0)
    assert all(np.array_equal(values, kept[name]) for name, values in state.items())


def test_a_batch_of_more_ids_than_rows_leaves_the_greatest_without() -> None:
    rows = allocator(3, {"admit_after": 1, "idle_ttl_ms": 0})
    observe(rows, {4: 1, 8: 1, 9: 1}, 5, step=0)
    assert rows.idmap.rows_of(np.array([4, 8, 9])).tolist() == [1, 2, 0]
    assert rows.changed_steps[0] == 0


def test_a_full_table_gives_up_a_sixteenth_the_oldest_of_the_coldest() -> None:
    rows = allocator(65, {"admit_after": 1, "idle_ttl_ms": 0})
    observe(rows, dict.fromkeys(range(32, 64), 1) | {7: 5}, 5, step=0)
    observe(rows, dict.fromkeys(range(31), 1), 6, step=1)
    resumed = allocator(65, {"admit_after": 1, "idle_ttl_ms": 0})
    resumed.load(rows.state())
    for each in (rows, resumed):
        assert observe(each, {100: 1, 101: 1}, 7, step=2).num_coldest == 4
        gone = each.idmap.rows_of(np.array([32, 33, 34, 35])) == 0
        assert gone.all()


def test_where_no_admission_was_counted_before_it_begins_now() -> None:
    state = allocator(8, {"admit_after": 1, "idle_ttl_ms": 0}).state()
    rows = allocator(8, {"admit_after": 2, "idle_ttl_ms": 0})
    rows.load(state)
    assert [observe(rows, {4: 1}, 5, step).num_admitted for step in range(3)] == [0, 1, 0]


@given(st.dictionaries(st.integers(-(2**63), 2**63 - 1), st.integers(1, 50), max_size=60))
def test_the_sketch_never_counts_too_low(seen: dict[int, int]) -> None:
    sketch = CountSketch(4, seed=1)
    counts = np.array([*seen.values()], np.int64)
    found = sketch.add(np.array([*seen], np.int64), counts)
    assert (found >= counts).all()
