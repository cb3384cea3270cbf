"""Attention in which each row sees at most two column intervals of its own sequence."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from kernels.dispatch import AUTO, Wish
from kernels.interval_attention.bias import checked_bias
from kernels.interval_attention.checks import check_scoring, check_tensors, checked_intervals
from kernels.interval_attention.dispatch import BACKENDS

Score = Literal["silu", "softmax"]


def interval_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    intervals: Tensor,
    score: Score,
    scale: float,
    divisor: float = 1.0,
    position_bias: Tensor | None = None,
    time_bias: Tensor | None = None,
    q_positions: Tensor | None = None,
    q_times_ms: Tensor | None = None,
    kv_times_ms: Tensor | None = None,
    backend: str = AUTO,
) -> Tensor:
    """Attend: row i sees columns [a0,b0) and [a1,b1), counted from its own sequence's first column.

    silu: sum_j silu(s_ij) v_j / divisor (HSTU, Zhai et al. 2024, section 3.2); softmax: the usual;
    a row that sees nothing gives 0. s_ij = scale q_i.k_j + position_bias[p_i - j] +
    time_bias[bucket(t_i - t_j)], the distance clamped to the table; bucket: `bias.time_bucket`.

    Shapes: q [Tq,H,D], k [Tk,H,D], v [Tk,H,V] -> [Tq,H,V]; q_offsets, kv_offsets int64[B+1];
    intervals int32[Tq,4] as (a0, b0, a1, b1), disjoint; position_bias [P]; time_bias [NB];
    q_positions (default: the row's place in its sequence), q_times_ms int64[Tq]; kv_times_ms
    int64[Tk]. `backend` is a name of `dispatch.BACKENDS`, or "auto".

    Raises:
        FreshetError: arguments that do not fit, or a backend that cannot do this or is not built.

    Example:
        >>> import torch
        >>> x, offsets = torch.ones(3, 1, 4), torch.tensor([0, 3])
        >>> mask = torch.tensor([[0, 1, 0, 0], [0, 2, 0, 0], [0, 3, 0, 0]]).int()
        >>> interval_attention(x, x, x, q_offsets=offsets, kv_offsets=offsets, intervals=mask,
        ...                    score="softmax", scale=0.5)[:, 0, 0]
        tensor([1., 1., 1.])
    """
    check_tensors(q, k, v)
    check_scoring(score, scale, divisor)
    intervals = checked_intervals(intervals, q_offsets, kv_offsets, q=q, k=k)
    bias = checked_bias(
        position_bias, time_bias, q_positions, q_times_ms, kv_times_ms, q=q, k=k, offsets=q_offsets
    )
    return BACKENDS.choose(backend, Wish.of(q, max(q.shape[2], v.shape[2]))).run(
        q, k, v, q_offsets=q_offsets, kv_offsets=kv_offsets, intervals=intervals, score=score,
        scale=scale, divisor=divisor, bias=bias,
    )  # fmt: skip
