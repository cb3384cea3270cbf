"""Who is forgotten, what stays in memory, and that neither memory nor time grows with one user."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from features.assembler import PartitionAssembler
from features.config import FeaturesConfig
from features.eviction import TouchLog
from features.offline import Record
from features.sequences import SESSION_START_BIT
from features.stores import MemoryStore, Stores, UserTable
from features.tokens import NEVER_MS
from features.users import User
from ingest.events import MAX_EVENT_BYTES
from tests.features.logs import CONFIG, beat, configs, event, logs, run
from tests.features.test_assembler import flushed, sequences

YEAR_MS = 31_536_000_000


@given(logs(), configs(), st.integers(1, 3))
def test_no_more_users_are_kept_than_allowed_and_no_event_is_lost(
    log: list[Record], config: FeaturesConfig, max_users: int
) -> None:
    assembler = PartitionAssembler(replace(config, max_users=max_users), 0, 1)
    for record in flushed(log):
        assembler.process(*record)
        assert assembler.num_users <= max_users
        assert assembler.progress().counters.imbalance() == 0
    assert assembler.progress().counters.pending == 0


def test_the_longest_silent_user_makes_room_and_returns_as_a_new_one() -> None:
    config = replace(CONFIG, max_users=2, bound_ms=0)
    log = [(at, 9_000, event(1_000 + 100 * at, id=at, user=u)) for at, u in enumerate([1, 2, 3, 1])]
    outputs, assembler = run([*log, (9, 9_000, beat(9_000))], config)
    assert (assembler.num_users, assembler.tally.evicted_users) == (2, 2)
    found = [(m.user_id, m.lifetime_tokens, len(m.tokens)) for m in sequences(outputs)]
    assert found == [(1, 0, 1), (2, 0, 1), (3, 0, 1), (1, 0, 1)]


def test_a_user_silent_for_the_ttl_is_forgotten_and_one_who_is_not_stays() -> None:
    config = replace(CONFIG, user_ttl_ms=3_200)
    log = [
        (0, 1_000, event(1_000, id=1, user=1)),
        (1, 1_000, event(1_000, id=2, user=2)),
        (2, 3_000, event(3_000, id=3, user=2)),
        (3, 4_300, beat(4_300)),
    ]
    _, assembler = run(log, config)
    assert (assembler.num_users, assembler.tally.expired_users) == (2, 0)
    assembler.process(4, 4_301, beat(4_301))
    assert (assembler.num_users, assembler.tally.expired_users) == (1, 1)
    outputs = assembler.process(5, 4_400, event(4_400, id=4, user=1))
    outputs += assembler.process(6, 4_500, event(4_500, id=5, user=2))
    outputs += assembler.process(7, 9_000, beat(5_000))
    returned, stayed = sequences(outputs)
    assert (returned.user_id, len(returned.tokens)) == (1, 1)
    assert returned.tokens["actions"][0] & SESSION_START_BIT
    assert (stayed.user_id, len(stayed.tokens)) == (2, 3)


def test_a_clock_that_jumps_a_century_either_way_only_empties_the_partition() -> None:
    far_ms = 4_102_444_799_000
    log = [
        (0, far_ms, event(1_000, id=1)),
        (1, far_ms, event(far_ms, id=2)),
        (2, far_ms, event(far_ms - 90 * YEAR_MS, id=3)),
        (3, far_ms, event(0, id=4)),
        (4, far_ms, beat(far_ms - YEAR_MS)),
        (5, 1_000, event(far_ms + 1_000, id=5)),
        (6, far_ms, event(far_ms + 1, id=6, item=2)),
    ]
    _, assembler = run(log, replace(CONFIG, user_ttl_ms=YEAR_MS))
    counters = assembler.progress().counters
    assert (counters.targets, counters.late, counters.dead, counters.pending) == (1, 2, 1, 2)
    assert counters.imbalance() == 0
    assert assembler.tally.expired_users == 1
    assert assembler.clock_ms == far_ms + 1


def test_touches_name_every_user_once_in_the_order_of_his_last_bucket() -> None:
    touches = TouchLog(MemoryStore(), ttl_ms=320, max_users=32)
    users = {user_id: User() for user_id in range(6)}
    order = []
    for clock_ms, user_id in [(0, 0), (1, 1), (2, 0), (11, 2), (12, 0), (35, 3), (36, 4), (37, 5)]:
        if clock_ms >= touches.bucket_end_ms:
            touches.begin_bucket(clock_ms)
        if users[user_id].touch < touches.bucket_start:
            touches.touch(user_id, users[user_id])
        again = TouchLog(touches._store, ttl_ms=320, max_users=32)
        again.restore(touches.save())
        touches = again
    assert touches.expires_ms == 10 + 320
    while touches.expires_ms != NEVER_MS:
        number, ids = touches.take_oldest()
        order += [user_id for user_id in ids if users[user_id].touch == number]
    assert order == [1, 2, 0, 3, 4, 5]


def test_users_without_pending_events_are_read_when_asked_for_and_let_go_again() -> None:
    stores = Stores()
    config = replace(CONFIG, cached_users=3)
    assembler = PartitionAssembler(config, 0, 1, stores)
    for at in range(100):
        assembler.process(at, 20_000, event(1_000 + 100 * at, id=at, user=at))
    meta = assembler.save()
    assert len(assembler._users._cached) == 3
    assert len(list(stores.users.items())) == 100
    assert len(list(stores.waiting.items())) == len(assembler._users.waiting) == 1
    restored = PartitionAssembler(config, 0, 1, stores)
    restored.restore(meta)
    assert not restored._users._cached
    outputs = restored.process(100, 20_000, event(19_000, id=200, user=7))
    outputs += restored.process(101, 20_000, beat(20_000))
    assert [len(message.tokens) for message in sequences(outputs)] == [1, 2]


def test_the_cache_holds_no_more_than_it_may_between_saves() -> None:
    table = UserTable(Stores(), cached_users=2)
    for user_id in range(5):
        table.add(user_id)
        table.changed.add(user_id)
    table.save()
    assert list(table._cached) == [3, 4]
    assert table.find(0) == User()


def test_a_user_of_very_many_events_costs_no_more_per_event() -> None:
    log = [(at, 9_000_000, event(1_000 + at // 50, id=at, item=at % 999)) for at in range(30_000)]
    _, assembler = run(log, FeaturesConfig(context_features=("device",)))
    user, waiting = assembler._users.get(1), assembler._users.waiting.get(1)
    assert assembler.tally.forced_emissions > 0
    assert len(user.pack()) + len(waiting.pack() if waiting else b"") < 512 * 40 + 128 * 32 + 3_000
    assert len(assembler._queue._wakes) < 200


def test_a_record_of_ten_megabytes_is_dead_and_stops_nothing() -> None:
    raw = b'{"event_id":1,"context":"' + b"x" * 10_000_000 + b'"}'
    outputs, assembler = run(
        [(0, 1_000, raw), (1, 1_000, event(1_000, id=1)), (2, 9_000, beat(2_000))]
    )
    dead, message = outputs
    assert dead.headers is not None
    assert (dead.headers["reason"], len(dead.value)) == ("too_large", MAX_EVENT_BYTES)
    assert message.topic == "sequences"
    assert assembler.progress().counters.imbalance() == 0
