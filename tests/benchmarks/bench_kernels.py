"""Interval attention on this machine's CPU against its targets: `make bench-kernels`.

Every figure is a ratio of two times of the same run, taken in turns, so that a busy machine slows
both. The last line is the verdict; the exit status is 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels import intervals
from kernels.interval_attention import interval_attention
from kernels.jagged import offsets_of, positions_of, sequence_of

HEADS, WIDTH, BUCKETS = 4, 64, 64
# A query-key pair costs two products forward and five backward, as FlashAttention counts: the
# scores computed anew are among them. Without these it would be six.
PRODUCTS, PRODUCTS_WITHOUT_RECOMPUTE = 7, 6
TOKENS = 8192
OUT = Path(__file__).parents[2] / "build" / "bench" / "kernels.json"

Case = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured figure and its target; `least` says which side of it is good."""

    name: str
    measured: float
    target: float
    least: bool = True
    note: str = ""

    @property
    def met(self) -> bool:
        return self.measured >= self.target if self.least else self.measured <= self.target

    def line(self) -> str:
        verdict = "met" if self.met else "MISSED"
        sign = ">=" if self.least else "<="
        note = f"  ({self.note})" if self.note else ""
        return (
            f"{verdict:6}  {self.name}: {self.measured:.3g}, target {sign} {self.target:.3g}{note}"
        )


def ragged_case(longest: int, *, biased: bool, tokens: int = TOKENS) -> Case:
    """Causal sequences with lengths uniform in [longest/4, longest]."""
    generator = torch.Generator().manual_seed(longest)
    num = max(2, tokens // longest)
    lengths = torch.randint(longest // 4, longest + 1, (num,), generator=generator)
    lengths[0] = longest
    return case_of(lengths, intervals.causal(lengths), biased=biased)


def case_of(lengths: Tensor, mask: Tensor, *, biased: bool) -> Case:
    generator = torch.Generator().manual_seed(1)
    total = int(lengths.sum())
    q, k, v = (torch.randn(total, HEADS, WIDTH, generator=generator) for _ in range(3))
    case: Case = {
        "q": q.requires_grad_(),
        "k": k.requires_grad_(),
        "v": v.requires_grad_(),
        "q_offsets": offsets_of(lengths),
        "kv_offsets": offsets_of(lengths),
        "intervals": mask,
        "score": "silu",
        "scale": WIDTH**-0.5,
        "divisor": float(lengths.max()),
    }
    if biased:
        gaps_ms = torch.randint(0, 86_400_000, (total,), generator=generator)
        times_ms = gaps_ms.cumsum(0)
        case |= {
            "position_bias": torch.randn(int(lengths.max()), requires_grad=True),
            "time_bias": torch.randn(BUCKETS, requires_grad=True),
            "q_times_ms": times_ms,
            "kv_times_ms": times_ms,
        }
    return case


def semi_local(length: int, local: int, first: int) -> Tensor:
    """Row i attends the `first` columns and the `local` ones up to itself (ULTRA-HSTU)."""
    row = torch.arange(length)
    zero = torch.zeros_like(row)
    start = (row - local + 1).clamp(min=first)
    second = torch.where(row >= first, row + 1, start)
    return torch.stack([zero, (row + 1).clamp(max=first), start, second], dim=1).int()


def padded_dense(case: Case) -> Tensor:
    """The same attention as the field writes it in PyTorch: padded to the longest, [B,H,N,N]."""
    offsets = case["q_offsets"]
    lengths = offsets.diff()
    longest, num = int(lengths.max()), len(lengths)
    slots = sequence_of(lengths) * longest + positions_of(lengths)

    def pad(x: Tensor) -> Tensor:
        block = x.new_zeros(num * longest, *x.shape[1:]).index_copy(0, slots, x)
        return block.unflatten(0, (num, longest)).transpose(1, 2)

    logits = pad(case["q"]) @ pad(case["k"]).transpose(2, 3) * case["scale"]
    weights = functional.silu(logits) / case["divisor"] * torch.ones(longest, longest).tril()
    padded = (weights @ pad(case["v"])).transpose(1, 2).flatten(0, 1)
    return padded.index_select(0, slots)


def step(attend: Callable[[], Tensor], case: Case) -> Callable[[], None]:
    """A forward and a backward pass."""
    leaves = [x for x in case.values() if isinstance(x, Tensor) and x.requires_grad]
    grad = torch.randn_like(case["v"])

    def run() -> None:
        torch.autograd.grad(attend(), leaves, grad)

    return run


def attention(case: Case, **changes: Any) -> Callable[[], Tensor]:
    return lambda: interval_attention(**(case | changes))


def best_seconds(*runs: Callable[[], object], rounds: int = 5) -> list[float]:
    """The least time of each, taken in turns."""
    best = [math.inf] * len(runs)
    for round_ in range(rounds + 1):
        for index, run in enumerate(runs):
            start = time.perf_counter()
            run()
            took = time.perf_counter() - start
            best[index] = min(best[index], took) if round_ else best[index]
    return best


def gemm() -> tuple[Callable[[], object], float]:
    size = 1536
    a, b = torch.randn(size, size), torch.randn(size, size)
    return lambda: torch.mm(a, b), 2.0 * size**3


def share_of_peak(longest: int, *, biased: bool, target: float) -> Figure:
    case = ragged_case(longest, biased=biased)
    multiply, flops = gemm()
    seconds, gemm_seconds = best_seconds(step(attention(case), case), multiply, rounds=12)
    peak = flops / gemm_seconds
    products = intervals.num_pairs(case["intervals"]) * HEADS * 2.0 * WIDTH
    strict = PRODUCTS_WITHOUT_RECOMPUTE * products / seconds / peak
    return Figure(
        name=f"share of GEMM peak, causal silu, N={longest}, {'both biases' if biased else 'no bias'}",
        measured=PRODUCTS * products / seconds / peak,
        target=target,
        note=f"{strict:.3g} without the recomputed scores; peak {peak / 1e9:.0f} GFLOP/s",
    )


def against_padded_dense(longest: int, *, target: float) -> Figure:
    case = ragged_case(longest, biased=False, tokens=min(TOKENS, 4 * longest))
    dense = step(lambda: padded_dense(case), case)
    ours, theirs = best_seconds(step(attention(case), case), dense, rounds=3)
    return Figure(
        name=f"times faster than padded dense PyTorch, N={longest}",
        measured=theirs / ours,
        target=target,
    )


def semi_local_figures() -> list[Figure]:
    sizes, seconds = (2048, 4096, 8192, 16384), []
    for size in sizes:
        case = case_of(torch.tensor([size]), semi_local(size, 128, 128), biased=False)
        seconds += best_seconds(step(attention(case), case), rounds=3)
    lengths = torch.tensor([8192])
    full = case_of(lengths, intervals.causal(lengths), biased=False)
    (causal_seconds,) = best_seconds(step(attention(full), full), rounds=1)
    x = torch.tensor(sizes, dtype=torch.float64).log()
    y = torch.tensor(seconds, dtype=torch.float64).log()
    x, y = x - x.mean(), y - y.mean()
    exponent = float((x * y).sum() / (x * x).sum())
    return [
        Figure(
            name="semi-local 128+128 times faster than causal, N=8192",
            measured=causal_seconds / seconds[2],
            target=12,
        ),
        Figure(
            name="semi-local growth exponent, N=2k..16k", measured=exponent, target=1.1, least=False
        ),
    ]


def delta_figure(num_candidates: int = 1000, num_cached: int = 2000) -> Figure:
    """Candidates against a cache, and as many full passes of one candidate each."""
    history, count = torch.tensor([num_cached]), torch.tensor([num_candidates])
    columns = num_cached + num_candidates
    case = case_of(torch.tensor([columns]), intervals.causal(torch.tensor([columns])), biased=False)
    delta = attention(
        case,
        q=case["q"][num_cached:],
        q_offsets=offsets_of(count),
        intervals=intervals.candidates(history, count),
    )
    one = torch.tensor([num_cached + 1])
    full_case = case_of(one, intervals.target_aware(one, torch.tensor([1])), biased=False)
    with torch.no_grad():
        delta_seconds, full_seconds = best_seconds(delta, attention(full_case), rounds=4)
    return Figure(
        name=f"delta form of {num_candidates} candidates times faster than full passes",
        measured=num_candidates * full_seconds / delta_seconds,
        target=100,
        note="one full pass measured, times their number",
    )


def extra_memory_bytes(length: int = 16384) -> int:
    """What a forward and backward pass takes beyond its inputs and outputs, in this process."""
    small = ragged_case(64, biased=False, tokens=128)
    step(attention(small), small)()
    lengths = torch.tensor([length])
    case = case_of(lengths, intervals.causal(lengths), biased=False)
    run = step(attention(case), case)
    before = status_bytes("VmRSS")
    run()
    results = 4 * case["v"].numel() * case["v"].element_size()
    return status_bytes("VmHWM") - before - results


def status_bytes(field: str) -> int:
    """A figure of this process's memory: VmRSS is now, VmHWM the most there ever was."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def memory_figure(threads: int) -> Figure:
    # A process of its own: the most memory a process ever had never shrinks.
    command = [sys.executable, "-m", __spec__.name, "--memory", "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Figure(
        name="MB beyond inputs and outputs, N=16384",
        measured=int(done.stdout) / 1e6,
        target=400,
        least=False,
    )


def measure(threads: int) -> list[Figure]:
    figures = []

    def add(*found: Figure) -> None:
        for figure in found:
            print(figure.line(), flush=True)
        figures.extend(found)

    for longest in (1024, 2048):
        add(share_of_peak(longest, biased=False, target=0.60))
        add(share_of_peak(longest, biased=True, target=0.45))
    for longest, target in ((256, 3.0), (1024, 6.0), (2048, 6.0)):
        add(against_padded_dense(longest, target=target))
    add(*semi_local_figures())
    add(memory_figure(threads))
    add(delta_figure())
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="print only the extra bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(extra_memory_bytes())
        return 0
    figures = measure(arguments.threads)
    missed = sum(not figure.met for figure in figures)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "threads": arguments.threads,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "figures": [asdict(figure) | {"met": figure.met} for figure in figures],
    }
    OUT.write_text(json.dumps(report, indent=1) + "\n")
    print(
        f"{'MISSED' if missed else 'PASSED'}: {len(figures) - missed} of {len(figures)} targets met"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
