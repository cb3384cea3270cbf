"""CPU-seconds of a process tree, and of the threads in its JVM by name."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import psutil

_TICKS = os.sysconf("SC_CLK_TCK")
# Thread names, cut to 15 characters by the kernel -> what the thread does.
_WORK = {
    "assemble": "assemble: Python, rows, sink",
    "GroupWindowAggr": "gather: micro-batches in SQL",
    "Source": "source",
    "kafka-producer": "Kafka producer",
    "AsyncOperations": "checkpoints: writing state",
    "jobmanager-io": "checkpoints: completing",
    "C1": "JVM: compiling",
    "C2": "JVM: compiling",
    "G1": "JVM: garbage",
    "GC": "JVM: garbage",
    "VM": "JVM: garbage",
    "Thread": "planning the job",
}


def tree_seconds(pid: int) -> float:
    """User and system time of a process, its descendants, and those of them that ended."""
    root = psutil.Process(pid)
    seconds = 0.0
    for process in (root, *root.children(recursive=True)):
        seconds += sum(process.cpu_times()[:4])
    return seconds


def java_of(pid: int) -> psutil.Process:
    """The JVM below a process."""
    found = psutil.Process(pid).children(recursive=True)
    return next(process for process in found if process.name() == "java")


def seconds_by_work(pid: int) -> Counter[str]:
    """CPU-seconds of the tree by what its threads do; what no name says is `other`."""
    jvm = java_of(pid)
    work: Counter[str] = Counter()
    for task in Path(f"/proc/{jvm.pid}/task").iterdir():
        name, _, fields = (task / "stat").read_text().partition("(")[2].rpartition(")")
        ticks = sum(int(field) for field in fields.split()[11:13])
        label = next((text for start, text in _WORK.items() if name.startswith(start)), "other")
        work[label] += ticks / _TICKS
    work["other"] += tree_seconds(pid) - sum(work.values())
    return work
