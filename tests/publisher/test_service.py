"""The publisher: hand-overs become versions, each announced once, whatever is interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from ingest.runtime.errors import BrokerError, ConfigError
from ingest.runtime.service import StopSignal
from ingest.runtime.settings import read_settings
from publisher.service import Publisher, PublisherConfig, serve
from publisher.settings import PublisherSettings
from publisher.snapshots import Announcement, SnapshotStore, version_of
from tests.publisher.tiny import CONFIG, WATERMARK_MS, tiny_export, tiny_model, tiny_table
from trainer.export import Position


class Topic:
    """The `snapshots` topic in memory; the next `failures` announcements are not acknowledged."""

    def __init__(self) -> None:
        self.records: list[Announcement] = []
        self.failures = 0

    def last_announced(self) -> str | None:
        return self.records[-1].version if self.records else None

    def announce(self, announcement: Announcement) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerError("announcing failed", retriable=True)
        self.records.append(announcement)

    @property
    def versions(self) -> list[str]:
        return [record.version for record in self.records]


class World:
    """Directories and a topic that outlive any publisher."""

    def __init__(self, root: Path) -> None:
        self.config = PublisherConfig(
            exports=root / "exports", store=root / "store", keep_versions=2
        )
        self.topic = Topic()
        self.store = SnapshotStore(self.config.store, self.config.model_name)

    def export(self, step: int, **changes: object) -> None:
        tiny_export(self.config.exports, step, **changes)

    def run(self) -> list[str | None]:
        """Start, recover, publish until nothing is left, end."""
        publisher = Publisher(self.config, self.topic)
        try:
            publisher.recover()
            published = [publisher.advance()]
            while published[-1] is not None:
                published.append(publisher.advance())
            return published[:-1]
        finally:
            publisher.close()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("freshet_publisher_refused_total", {"reason": reason}) or 0.0


def test_a_hand_over_becomes_a_verified_announced_version(world: World) -> None:
    world.export(5)
    assert world.run() == [version_of(5)]
    pointer = world.store.latest()
    assert pointer is not None
    manifest = world.store.verify(pointer.version)
    assert manifest.positions == {0: Position(offset=5, row=1, clock_ms=WATERMARK_MS + 5)}
    assert manifest.quality["click"].ne_lifetime == 0.9
    (announced,) = world.topic.records
    assert announced.manifest_sha256 == pointer.manifest_sha256
    assert announced.uri == world.store.path(pointer.version).as_uri()


def test_superseded_hand_overs_are_skipped_and_parents_are_linked(world: World) -> None:
    for step in (1, 2, 3):
        world.export(step)
    assert world.run() == [version_of(3)]
    world.export(4)
    assert world.run() == [version_of(4)]
    assert world.store.manifest(version_of(4)).parent == version_of(3)
    assert world.topic.versions == [version_of(3), version_of(4)]


def test_retention_leaves_the_newest_versions(world: World) -> None:
    for step in range(1, 6):
        world.export(step)
        world.run()
    assert world.store.versions() == [version_of(4), version_of(5)]


def with_nan() -> dict[str, object]:
    dense = dict(tiny_model(2).state_dict())
    dense["start_state"] = dense["start_state"].clone().index_fill(0, torch.tensor([0]), torch.nan)
    return {"dense": dense}


def with_infinite_row() -> dict[str, object]:
    table = tiny_table(2)
    table["item_weight"][3, 1] = torch.inf
    return {"table": table}


def with_other_shape() -> dict[str, object]:
    return {"model": CONFIG.to_dict() | {"hidden_dim": 32}}


def with_missing_weight() -> dict[str, object]:
    dense = dict(tiny_model(2).state_dict())
    del dense["start_state"]
    return {"dense": dense}


def with_id_twice() -> dict[str, object]:
    table = tiny_table(2)
    table["row_ids"][:] = -1
    table["row_ids"][1:3] = 9
    return {"table": table}


def with_id_in_fallback_row() -> dict[str, object]:
    table = tiny_table(2)
    table["row_ids"][0] = 1
    return {"table": table}


def with_unknown_field() -> dict[str, object]:
    return {"model": CONFIG.to_dict() | {"flux": 1}}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (with_nan, "not_finite"),
        (with_infinite_row, "not_finite"),
        (with_other_shape, "shape"),
        (with_missing_weight, "shape"),
        (with_id_twice, "ids"),
        (with_id_in_fallback_row, "ids"),
        (with_unknown_field, "config"),
    ],
)
def test_an_insane_hand_over_is_refused_once_and_the_one_before_is_served(
    world: World, changes: Callable[[], dict[str, object]], reason: str
) -> None:
    world.export(1)
    world.export(2, **changes())
    before = refused(reason)
    assert world.run() == [version_of(1)]
    assert refused(reason) == before + 1
    assert world.topic.versions == [version_of(1)]
    world.export(3)
    assert world.run() == [version_of(3)]


def test_a_torn_hand_over_is_refused(world: World) -> None:
    world.export(1)
    path = world.config.exports / version_of(1) / "dense.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    before = refused("unreadable")
    assert world.run() == []
    assert refused("unreadable") == before + 1


class Crash(BaseException):
    """The process is killed here."""


@pytest.mark.parametrize("effect", ["write", "point", "drop_old", "announce", "after_announce"])
def test_a_crash_between_any_two_effects_ends_in_one_announcement(
    world: World, monkeypatch: pytest.MonkeyPatch, effect: str
) -> None:
    world.export(1)
    world.run()
    world.export(2)

    def crash(*args: object, **kwargs: object) -> None:
        raise Crash

    def announce_then_crash(announcement: Announcement) -> None:
        world.topic.records.append(announcement)
        raise Crash

    with monkeypatch.context() as patched:
        if effect == "announce":
            patched.setattr(world.topic, "announce", crash)
        elif effect == "after_announce":
            patched.setattr(world.topic, "announce", announce_then_crash)
        else:
            patched.setattr(SnapshotStore, effect, crash)
        with pytest.raises(Crash):
            world.run()
    world.run()
    pointer = world.store.latest()
    assert pointer is not None
    assert pointer.version == version_of(2)
    assert world.topic.versions == [version_of(1), version_of(2)]


def test_a_version_committed_but_not_pointed_to_is_adopted_without_its_hand_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.export(1)
    with monkeypatch.context() as patched:
        patched.setattr(SnapshotStore, "point", lambda *args: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            world.run()
    for part in (world.config.exports / version_of(1)).iterdir():
        part.unlink()
    world.run()
    assert world.topic.versions == [version_of(1)]


def test_an_announcement_that_failed_is_repeated_before_anything_else(world: World) -> None:
    publisher = Publisher(world.config, world.topic)
    world.export(1)
    world.topic.failures = 1
    with pytest.raises(BrokerError):
        publisher.advance()
    world.export(2)
    publisher.advance()
    publisher.close()
    assert world.topic.versions == [version_of(1), version_of(2)]


def test_a_second_publisher_on_the_same_store_is_refused(world: World) -> None:
    publisher = Publisher(world.config, world.topic)
    with pytest.raises(ConfigError, match="directory in use"):
        Publisher(world.config, world.topic)
    publisher.close()


def test_a_stop_lets_the_publication_in_hand_finish(world: World) -> None:
    stop = StopSignal()
    publisher = Publisher(world.config, world.topic)
    world.export(1)
    announce = world.topic.announce

    def announce_after_stop(announcement: Announcement) -> None:
        stop.request()
        announce(announcement)

    world.topic.announce = announce_after_stop  # type: ignore[method-assign]
    serve(publisher, stop, poll_seconds=0.01)
    publisher.close()
    assert world.topic.versions == [version_of(1)]


def test_settings_name_the_variable_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRESHET_PUBLISHER_EXPORTS", raising=False)
    monkeypatch.setenv("FRESHET_PUBLISHER_STORE", "/tmp/store")
    monkeypatch.setenv("FRESHET_PUBLISHER_KEEP_VERSIONS", "many")
    with pytest.raises(ConfigError) as refused_settings:
        read_settings(PublisherSettings)
    assert "FRESHET_PUBLISHER_EXPORTS" in str(refused_settings.value)
    assert "FRESHET_PUBLISHER_KEEP_VERSIONS" in str(refused_settings.value)


@pytest.mark.parametrize(("field", "value"), [("keep_versions", 1), ("poll_seconds", 0.0)])
def test_a_configuration_that_cannot_work_names_its_field(field: str, value: float) -> None:
    with pytest.raises(ConfigError, match=field):
        PublisherConfig(exports=Path("e"), store=Path("s"), **{field: value})


def test_a_hand_over_older_than_what_is_served_is_an_error_told_once(world: World) -> None:
    world.export(5)
    world.run()
    shutil.rmtree(world.config.exports)
    world.export(2)
    before = refused("older")
    publisher = Publisher(world.config, world.topic)
    with capture_logs() as logs:
        assert publisher.advance() is publisher.advance() is None
    publisher.close()
    assert [entry["reason"] for entry in logs if entry["log_level"] == "error"] == ["older"]
    assert version_of(5) in logs[0]["error"]
    assert refused("older") == before + 1


def test_a_version_nobody_could_be_told_of_is_counted_shown_and_makes_the_old_ones_go(
    world: World,
) -> None:
    for step in (1, 2):
        world.export(step)
        world.run()
    published = REGISTRY.get_sample_value("freshet_publisher_published_total") or 0.0
    world.export(3)
    world.topic.failures = 1
    with pytest.raises(BrokerError):
        world.run()
    assert REGISTRY.get_sample_value("freshet_publisher_published_total") == published + 1
    assert REGISTRY.get_sample_value("freshet_publisher_snapshot_step") == 3
    assert world.store.versions() == [version_of(2), version_of(3)]
