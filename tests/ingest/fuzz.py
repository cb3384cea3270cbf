"""`make fuzz`: a million broken records through the parser, a hundred thousand through the assembler.

Every one is accounted for and nothing is raised but `InvalidEvent`. The last line is the verdict; the
exit status is 1 where it does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from features.config import FeaturesConfig
from features.offline import assemble
from features.sequences import Progress
from ingest.events import Event, InvalidEvent, decode_record, encode_record
from ingest.runtime.topics import EVENTS_DEAD, EVENTS_LATE
from tests.ingest.mutations import mutated, seeds

OUT = Path(__file__).parents[2] / "build" / "bench" / "fuzz.json"
REASONS = {"empty", "too_large", "malformed_json", "unknown_action", "invalid_field"}
_SHOWN_FAILURES = 10


@dataclass(kw_only=True)
class Account:
    """Where records went; `failures` says what broke the law."""

    name: str
    num_records: int = 0
    went: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Note what is not accounted for."""
        accounted = sum(self.went.values())
        if accounted != self.num_records:
            self.failures.append(f"{self.num_records} records, {accounted} accounted for")

    def line(self) -> str:
        went = ", ".join(f"{name} {count}" for name, count in self.went.most_common())
        return f"{'held' if not self.failures else 'BROKEN'}  {self.name}: {self.num_records} records: {went}"


def fuzz_parser(num_records: int, seed: int) -> Account:
    """Read every record; what is read must be written and read again as it was."""
    account = Account(name="parser")
    for _, raw in mutated(seeds(), num_records, seed):
        account.num_records += 1
        try:
            record = decode_record(raw)
            account.went["event" if isinstance(record, Event) else "heartbeat"] += 1
            if decode_record(encode_record(record)) != record:
                account.failures.append(f"changed by writing: {raw[:200]!r}")
        except InvalidEvent as error:
            if error.reason not in REASONS:
                account.failures.append(f"reason {error.reason}: {raw[:200]!r}")
            account.went[error.reason] += 1
        except Exception:  # noqa: BLE001 (whatever it is, it is what the fuzzer looks for)
            account.failures.append(f"{traceback.format_exc(limit=-1)} for {raw[:200]!r}")
    account.check()
    return account


def fuzz_assembler(num_records: int, seed: int) -> Account:
    """Assemble the records as one partition's log; compare its counters with what it let out."""
    account = Account(name="assembler")
    # Every record arrives a second after the good one it was made of happened.
    records = mutated(seeds(num_impressions=num_records), num_records, seed)
    log = [(offset, time_ms + 1_000, raw) for offset, (time_ms, raw) in enumerate(records)]
    account.num_records = len(log)
    dead: list[tuple[str, bytes]] = []
    num_late = 0
    try:
        for output in assemble(FeaturesConfig(), 0, 1, log):
            if isinstance(output, Progress):
                counters = output.counters
            elif output.topic == EVENTS_DEAD:
                dead.append(((output.headers or {})["source"], output.value))
            elif output.topic == EVENTS_LATE:
                num_late += 1
    except Exception:  # noqa: BLE001 (whatever it is, it is what the fuzzer looks for)
        account.failures.append(traceback.format_exc(limit=-3))
        return account
    names = ("targets", "corrections", "folded", "duplicates", "late", "dead", "pending")
    account.went.update({name: getattr(counters, name) for name in names})
    account.went["heartbeats"] = counters.heartbeats
    account.check()
    _check_topics(account, log, dead, num_late)
    return account


def _check_topics(
    account: Account, log: list[tuple[int, int, bytes]], dead: list[tuple[str, bytes]], late: int
) -> None:
    refused = {offset for offset, _, raw in log if not _is_record(raw)}
    found = {int(source.rpartition("/")[2]) for source, _ in dead}
    wrong = [
        source for source, raw in dead if log[int(source.rpartition("/")[2])][2][: len(raw)] != raw
    ]
    for told, law in (
        (len(found) == len(dead) == account.went["dead"], "every dead record has its letter"),
        (refused <= found, "every record that is no event has its letter"),
        (not wrong, f"a letter has its record's bytes: {wrong[:3]}"),
        (late == account.went["late"], "every late event is in events.late"),
    ):
        if not told:
            account.failures.append(f"does not hold: {law}")


def _is_record(raw: bytes) -> bool:
    try:
        decode_record(raw)
    except InvalidEvent:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parser-records", type=int, default=1_000_000)
    parser.add_argument("--assembler-records", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.monotonic()
    accounts = []
    for fuzz, num_records in (
        (fuzz_parser, arguments.parser_records),
        (fuzz_assembler, arguments.assembler_records),
    ):
        account = fuzz(num_records, arguments.seed)
        accounts.append(account)
        print(account.line(), flush=True)
        for failure in account.failures[:_SHOWN_FAILURES]:
            print(f"    {failure}", flush=True)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps([vars(account) for account in accounts], indent=1) + "\n")
    broken = sum(len(account.failures) for account in accounts)
    total = sum(account.num_records for account in accounts)
    seconds = time.monotonic() - started
    print(
        f"{'FAILED' if broken else 'PASSED'}: {total} records (seed {arguments.seed}), "
        f"{broken} failures, {seconds:.0f} s"
    )
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
