"""How large the terms are that attention sums: a sum that cancels rounds as they do, not as it does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kernels.interval_attention.bias import time_bucket


def largest_sums_of_terms(case: dict[str, Any], gradient: Tensor) -> dict[str, float]:
    """For the output and every gradient, the largest sum of its terms' absolute values, in float64.

    A pair's logit has the gradient slope * (gradient_i . v_j - mean_i), the mean (of softmax alone)
    being output_i . gradient_i: each of the three is itself a sum that may cancel.
    """
    case = {
        name: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
        for name, x in case.items()
    }
    gradient = gradient.double().abs()
    sums = {name: torch.zeros_like(case[name]) for name in "qkv"}
    sums["output"] = torch.zeros_like(gradient)
    for name in ("position_bias", "time_bias"):
        if case[name] is not None:
            sums[name] = torch.zeros_like(case[name])
    for rows, columns in zip(_spans(case["q_offsets"]), _spans(case["kv_offsets"]), strict=True):
        _add_sequence(sums, case, gradient[rows], rows, columns)
    return {name: float(x.max()) if x.numel() else 0.0 for name, x in sums.items()}


def _spans(offsets: Tensor) -> list[slice]:
    return [slice(lo, hi) for lo, hi in zip(offsets.tolist(), offsets[1:].tolist(), strict=False)]


def _add_sequence(
    sums: dict[str, Tensor], case: dict[str, Any], gradient: Tensor, rows: slice, columns: slice
) -> None:
    q, k, v = case["q"][rows], case["k"][columns], case["v"][columns]
    logits = case["scale"] * torch.einsum("ihd,jhd->hij", q, k)
    places = {}
    if case["position_bias"] is not None:
        distance = case["q_positions"][rows][:, None] - torch.arange(len(k))
        places["position_bias"] = distance.clamp(0, len(case["position_bias"]) - 1)
    if case["time_bias"] is not None:
        elapsed = case["q_times_ms"][rows][:, None] - case["kv_times_ms"][columns]
        places["time_bias"] = time_bucket(elapsed, len(case["time_bias"])).long()
    for name, place in places.items():
        logits = logits + case[name][place]
    a0, b0, a1, b1 = case["intervals"][rows][:, :, None].unbind(1)
    column = torch.arange(len(k))
    seen = ((column >= a0) & (column < b0)) | ((column >= a1) & (column < b1))
    reach = torch.einsum("ihv,jhv->hij", gradient, v.abs())
    if case["score"] == "softmax":
        weights = logits.masked_fill(~seen, -1e300).softmax(2) * seen
        terms = weights * (reach + (weights * reach).sum(2, keepdim=True))
    else:
        sigmoid = logits.sigmoid()
        weights = functional.silu(logits).abs() * seen / case["divisor"]
        terms = sigmoid * (1 + logits * (1 - sigmoid)) * reach * seen / case["divisor"]
    terms = terms.abs()
    sums["output"][rows] = torch.einsum("hij,jhv->ihv", weights, v.abs())
    sums["v"][columns] = torch.einsum("hij,ihv->jhv", weights, gradient)
    sums["q"][rows] = abs(case["scale"]) * torch.einsum("hij,jhd->ihd", terms, k.abs())
    sums["k"][columns] = abs(case["scale"]) * torch.einsum("hij,ihd->jhd", terms, q.abs())
    for name, place in places.items():
        sums[name].index_add_(0, place.flatten(), terms.sum(0).flatten())
