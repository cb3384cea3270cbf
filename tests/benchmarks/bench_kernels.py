"""Interval attention on this machine's CPU against its targets: `make bench-kernels`.

Every figure is the median of several ratios, each of two times taken in turn, so that a busy machine
slows both; how busy it was is printed. Of the peak count only operations inside the intervals
(`intervals.num_flops`): a query-key pair costs two products forward and five backward, as FlashAttention
counts, the scores computed anew among them. The last line is the verdict; the exit status is 1 where
a target is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels import intervals
from kernels.interval_attention import interval_attention
from kernels.jagged import offsets_of, positions_of, sequence_of
from tests.benchmarks.figures import Figure, Report

HEADS, WIDTH, BUCKETS = 4, 64, 64
TOKENS = 8192

Case = dict[str, Any]


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


def in_turns(*runs: Callable[[], object], rounds: int) -> list[list[float]]:
    """The seconds of each, round by round, after one round that does not count."""
    seconds = []
    for _ in range(rounds + 1):
        ends = [time.perf_counter()]
        for run in runs:
            run()
            ends.append(time.perf_counter())
        seconds.append([end - start for start, end in itertools.pairwise(ends)])
    return seconds[1:]


def gemm() -> tuple[Callable[[], object], float]:
    size = 2048
    a, b = torch.randn(size, size), torch.randn(size, size)
    return lambda: torch.mm(a, b), 2.0 * size**3


def num_flops(mask: Tensor) -> int:
    """Those of a forward and a backward pass."""
    sizes = {"num_heads": HEADS, "width": WIDTH, "value_width": WIDTH}
    return sum(intervals.num_flops(mask, **sizes, backward=back) for back in (False, True))


def share_of_peak(longest: int, *, biased: bool, target: float) -> Figure:
    case = ragged_case(longest, biased=biased)
    multiply, flops = gemm()
    useful = num_flops(case["intervals"])
    seconds = in_turns(multiply, step(attention(case), case), rounds=11)
    best_peak = flops / min(peak for peak, _ in seconds)
    best = useful / min(ours for _, ours in seconds) / best_peak
    return Figure.median(
        name=f"share of GEMM peak, causal silu, N={longest}, {'both biases' if biased else 'no bias'}",
        runs=[useful / ours / (flops / peak) for peak, ours in seconds],
        target=target,
        note=f"least times of all runs: {best:.3g} of {best_peak / 1e9:.0f} GFLOP/s",
    )


def against_padded_dense(longest: int, *, target: float) -> Figure:
    case = ragged_case(longest, biased=False, tokens=min(TOKENS, 4 * longest))
    dense = step(lambda: padded_dense(case), case)
    seconds = in_turns(dense, step(attention(case), case), rounds=15 if longest < 1024 else 5)
    return Figure.median(
        name=f"times faster than padded dense PyTorch, N={longest}",
        runs=[theirs / ours for theirs, ours in seconds],
        target=target,
    )


def semi_local_figures() -> list[Figure]:
    sizes = (2048, 4096, 8192, 16384)
    lengths = [torch.tensor([size]) for size in sizes]
    cases = [case_of(each, intervals.semi_local(each, 128, 128), biased=False) for each in lengths]
    full = case_of(lengths[2], intervals.causal(lengths[2]), biased=False)
    steps = [step(attention(case), case) for case in (*cases, full)]
    seconds = in_turns(*steps, rounds=5)
    return [
        Figure.median(
            name="semi-local 128+128 times faster than causal, N=8192",
            runs=[each[4] / each[2] for each in seconds],
            target=12,
        ),
        Figure.median(
            name="semi-local growth exponent, N=2k..16k",
            runs=[exponent(sizes, each[:4]) for each in seconds],
            target=1.1,
            least=False,
        ),
    ]


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The b of seconds = a sizes^b, fitted to the logarithms."""
    x, y = (torch.tensor(each, dtype=torch.float64).log() for each in (sizes, seconds))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x * x).sum())


def delta_figure(num_candidates: int = 1000, num_cached: int = 2000) -> Figure:
    """Candidates against a cache, and as many full passes of one candidate each."""
    history, count = torch.tensor([num_cached]), torch.tensor([num_candidates])
    columns = torch.tensor([num_cached + num_candidates])
    case = case_of(columns, intervals.causal(columns), biased=False)
    delta = attention(
        case,
        q=case["q"][num_cached:],
        q_offsets=offsets_of(count),
        intervals=intervals.candidates(history, count),
    )
    one = torch.tensor([num_cached + 1])
    full_case = case_of(one, intervals.target_aware(one, torch.tensor([1])), biased=False)
    with torch.no_grad():
        seconds = in_turns(attention(full_case), delta, rounds=9)
    return Figure.median(
        name=f"delta form of {num_candidates} candidates times faster than full passes",
        runs=[num_candidates * full / ours for full, ours in seconds],
        target=100,
        note="one full pass measured, times their number",
    )


def one_sequence_figure(threads: int, length: int = 4096) -> Figure:
    """A sequence of one head has nothing to share among threads but its rows."""
    lengths = torch.tensor([length])
    case = case_of(lengths, intervals.causal(lengths), biased=False)
    case |= {name: case[name][:, :1].detach().clone().requires_grad_() for name in "qkv"}
    run = step(attention(case), case)
    shares = []
    for _ in range(6):
        before = thread_nanoseconds()
        run()
        spent = [now - before.get(thread, 0) for thread, now in thread_nanoseconds().items()]
        shares.append(max(spent) / sum(spent))
    return Figure.median(
        name=f"busiest of {threads} threads' share of the CPU time, N={length}, one sequence of one head",
        runs=shares[1:],
        target=1 / threads + 0.15,
        least=False,
    )


def thread_nanoseconds() -> dict[str, int]:
    """How long each thread of this process was on a CPU."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
            found[thread.name] = int((thread / "schedstat").read_text().split()[0])
    return found


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


def measure(threads: int, report: Report) -> None:
    for longest in (1024, 2048):
        report.add(share_of_peak(longest, biased=False, target=0.60))
        report.add(share_of_peak(longest, biased=True, target=0.45))
    for longest, target in ((256, 3.0), (1024, 6.0), (2048, 6.0)):
        report.add(against_padded_dense(longest, target=target))
    for figure in semi_local_figures():
        report.add(figure)
    report.add(memory_figure(threads))
    report.add(delta_figure())
    if threads > 1:
        report.add(one_sequence_figure(threads))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--memory", action="store_true", help="print only the extra bytes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.memory:
        print(extra_memory_bytes())
        return 0
    busy_before = os.getloadavg()
    report = Report(
        "kernels", threads=arguments.threads, torch=torch.__version__, cores=os.cpu_count()
    )
    measure(arguments.threads, report)
    load = {"before": busy_before, "after": os.getloadavg()}
    before, after = (" ".join(f"{each:.2f}" for each in load[when]) for when in load)
    print(f"load average of {os.cpu_count()} cores: {before} before, {after} after")
    return report.close(load_average=load)


if __name__ == "__main__":
    sys.exit(main())
