"""The demo itself: its summary has what it promises, and nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from deploy.broker import ROOT
from deploy.demo.flow import run_demo
from deploy.demo.options import DemoOptions
from deploy.processes import Child, await_condition, log_contains
from ingest.runtime.errors import ConfigError

KEYS = {
    "events_in", "targets", "tokens_folded", "duplicates", "late", "dead", "conservation_ok",
    "events_per_second", "ne", "ne_base", "ne_baseline", "freshness_seconds", "versions_published",
    "versions_served", "parity_max_abs_error", "recommendations",
}  # fmt: skip


def processes_of(directory: Path) -> list[str]:
    """Command lines of live processes that name `directory`, or have it in their environment."""
    needle = str(directory).encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
        except OSError:
            continue  # it ended meanwhile, or is not ours to read
        if needle in command or needle in environment:
            found.append(command.replace(b"\0", b" ").decode(errors="replace"))
    return found


@pytest.mark.e2e
@pytest.mark.timeout(600)
def test_a_small_demo_finds_every_planted_count_again_and_leaves_nothing_running(
    tmp_path: Path,
) -> None:
    options = DemoOptions(data="synthetic", events=4_000, directory=tmp_path / "demo")
    summary = run_demo(options, Console(quiet=True))
    written = json.loads((options.directory / "summary.json").read_text())
    assert written == summary
    assert written.keys() >= KEYS
    assert written["conservation_ok"], written["conservation_problems"]
    assert written["planted_differs"] == []
    assert written["parity_max_abs_error"] <= 1e-5
    assert 1 <= written["versions_served"] <= written["versions_published"]
    assert written["freshness_seconds"]["num_events"] > 0
    assert written["recommendations"]["before"] != written["recommendations"]["after"]
    for name in ("summary.html", "ne.png", "freshness.png"):
        assert (options.directory / name).stat().st_size > 0
    assert processes_of(options.directory) == []


@pytest.fixture
def heard_interrupts() -> Iterator[None]:
    """Children hear SIGINT, also where this process was started to ignore it, as shells do behind `&`."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.e2e
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("heard_interrupts")
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_all_it_started(tmp_path: Path, signum: signal.Signals) -> None:
    directory = tmp_path / "demo"
    command = [
        sys.executable, "-m", "deploy", "demo", "--data", "synthetic", "--events", "4000",
        "--speed", "10x", "--directory", str(directory),
    ]  # fmt: skip
    demo = Child.start("demo", command, log=tmp_path / "demo.log", cwd=ROOT)
    try:
        await_condition(log_contains(demo, "all services are up"), demo, timeout_seconds=200)
        assert len(processes_of(directory)) > 5
        os.kill(demo.pid, signum)
        assert demo.wait(timeout_seconds=120) == 130
    finally:
        demo.kill()
    assert processes_of(directory) == []


def test_a_directory_that_is_not_a_demos_is_not_wiped(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.txt"
    precious.write_text("years of work")
    log = tmp_path / "log.jsonl"
    log.write_text(
        "".join(
            json.dumps(
                {
                    "event_id": n,
                    "user_id": 1,
                    "item_id": n,
                    "action": ("click", "impression")[n % 2],
                    "event_time_ms": n,
                }
            )
            + "\n"
            for n in range(1, 40)
        )
    )
    with pytest.raises(ConfigError, match="not a demo's"):
        run_demo(DemoOptions(data=str(log), directory=tmp_path), Console(quiet=True))
    assert precious.exists()


def test_a_log_that_teaches_nothing_is_refused_before_anything_starts(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text(
        '{"event_id":1,"user_id":1,"item_id":1,"action":"click","event_time_ms":1}\n' * 20
    )
    with pytest.raises(ConfigError, match="teaches no task"):
        run_demo(DemoOptions(data=str(log), directory=tmp_path / "demo"), Console(quiet=True))


def test_what_a_person_mistypes_is_one_message(tmp_path: Path) -> None:
    for wrong in (["--data", "nonsense"], ["--speed", "fast"], ["--events", "-3"]):
        done = subprocess.run(
            [sys.executable, "-m", "deploy", "demo", *wrong, "--directory", str(tmp_path / "x")],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 1
        assert "Traceback" not in done.stdout + done.stderr
        assert done.stdout.strip()
