"""Interval attention on this machine's GPU: `make bench-kernels-gpu`.

Model FLOPs utilisation (useful, in-interval FLOPs against the GPU's dense bf16 peak) of ragged causal
silu attention, forward and backward, beside the same rows padded: PyTorch's fused softmax attention,
and silu attention with a [B,H,N,N] score. Without a GPU there is nothing to measure: exit status 2.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from kernels import intervals
from kernels.interval_attention import interval_attention
from kernels.jagged import offsets_of, positions_of, sequence_of
from tests.benchmarks.figures import Figure, Report

HEADS, TOKENS = 4, 65_536
LENGTHS, WIDTHS = (1024, 2048, 4096, 8192, 16384), (64, 128)
# Products of a pair, the scores computed anew in backward among them, as FlashAttention counts.
PRODUCTS = {"forward": 2, "backward": 5}
# NVIDIA's CUTLASS attention of HSTU inside a training step, on an H100.
TARGET_MFU = {"forward": 0.568, "backward": 0.340}
# Dense bf16 of the data sheets, in TFLOP/s.
PEAKS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0}

Rows = tuple[Tensor, Tensor, Tensor]


def rows_of(lengths: Tensor, width: int) -> Rows:
    """q, k and v of bf16 [T,H,width] that need gradients."""
    generator = torch.Generator("cuda").manual_seed(1)
    shape = (int(lengths.sum()), HEADS, width)
    q, k, v = (torch.randn(shape, generator=generator, device="cuda") for _ in range(3))
    return (
        q.bfloat16().requires_grad_(),
        k.bfloat16().requires_grad_(),
        v.bfloat16().requires_grad_(),
    )


def ours(rows: Rows, lengths: Tensor, longest: int) -> Callable[[], Tensor]:
    offsets, mask = offsets_of(lengths), intervals.causal(lengths)
    return lambda: interval_attention(
        *rows, q_offsets=offsets, kv_offsets=offsets, intervals=mask, score="silu",
        scale=rows[0].shape[2] ** -0.5, divisor=float(longest), backend="triton",
    )  # fmt: skip


def padded(x: Tensor, lengths: Tensor, longest: int) -> Tensor:
    """[T,H,D] to [B,H,N,D], which needs gradients of its own: padding is not what is timed."""
    slots = sequence_of(lengths) * longest + positions_of(lengths)
    block = x.new_zeros(len(lengths) * longest, *x.shape[1:]).index_copy(0, slots, x.detach())
    block = block.unflatten(0, (len(lengths), longest)).transpose(1, 2).contiguous()
    return block.requires_grad_()


def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    longest = q.shape[2]
    visible = torch.ones(longest, longest, dtype=torch.bool, device=q.device).tril()
    weights = functional.silu(q @ k.transpose(2, 3) * q.shape[3] ** -0.5) / longest
    return (weights * visible) @ v


def seconds_of(run: Callable[[], object], rounds: int = 10) -> float:
    """The median of CUDA's own clock, after two rounds that compile and warm up."""
    took = []
    for _ in range(rounds + 2):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize()
        took.append(start.elapsed_time(end) / 1000)
    return sorted(took[2:])[rounds // 2]


def passes(attend: Callable[[], Tensor], leaves: Rows) -> dict[str, float]:
    """Seconds of the forward pass and of the backward pass alone."""
    out = attend()
    gradient = torch.randn_like(out)
    return {
        "forward": seconds_of(attend),
        "backward": seconds_of(
            lambda: torch.autograd.grad(out, leaves, gradient, retain_graph=True)
        ),
    }


def measure(longest: int, width: int, peak_flops: float) -> list[Figure]:
    """Both passes' utilisation against the anchor, and the ratio to either padded form."""
    num = max(2, 8 * TOKENS // (5 * longest))
    generator = torch.Generator().manual_seed(longest)
    lengths = torch.randint(longest // 4, longest + 1, (num,), generator=generator)
    lengths[0] = longest
    lengths = lengths.cuda()
    rows = rows_of(lengths, width)
    pairs = intervals.num_pairs(intervals.causal(lengths))
    seconds = passes(ours(rows, lengths, longest), rows)
    where = f"L={longest}, D={width}"
    figures = []
    for name, products in PRODUCTS.items():
        flops = 2.0 * products * pairs * HEADS * width
        mfu = flops / seconds[name] / peak_flops
        figures.append(Figure(name=f"MFU {name}, {where}", measured=mfu, target=TARGET_MFU[name]))
    q, k, v = (padded(x, lengths, longest) for x in rows)
    for rival, attend in {"padded SDPA": fused, "padded dense PyTorch": dense}.items():
        try:
            theirs = passes(partial(attend, q, k, v), (q, k, v))
        except torch.OutOfMemoryError:
            print(f"none    {rival}, {where}: the GPU's memory does not hold it", flush=True)
            continue
        for name in PRODUCTS:
            ratio = theirs[name] / seconds[name]
            figures.append(
                Figure(name=f"{name} times faster than {rival}, {where}", measured=ratio, target=1)
            )
    return figures


def main() -> int:
    if not torch.cuda.is_available():
        print(
            "bench-kernels-gpu measured nothing: PyTorch sees no CUDA GPU on this machine "
            "(torch.cuda.is_available() is false). Run it where there is one; "
            "`make kernels-aot` tells what the kernels take without.",
            file=sys.stderr,
        )
        return 2
    device = torch.cuda.get_device_name()
    peaks = [peak for name, peak in PEAKS.items() if name in device]
    if not peaks:
        print(f"bench-kernels-gpu knows no peak of a {device}: add it to PEAKS", file=sys.stderr)
        return 2
    report = Report("kernels-gpu", device=device, peak_tflops=peaks[0], torch=torch.__version__)
    for width in WIDTHS:
        for longest in LENGTHS:
            for figure in measure(longest, width, peaks[0] * 1e12):
                report.add(figure)
    return report.close()


if __name__ == "__main__":
    sys.exit(main())
