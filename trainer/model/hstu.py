"""HSTU, the default backbone (Zhai et al. 2024, "Actions Speak Louder than Words", section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from kernels.dispatch import AUTO
from kernels.interval_attention import interval_attention
from kernels.interval_attention.dispatch import BACKENDS
from kernels.norm_gate import norm_gate
from trainer.model.config import ModelConfig
from trainer.model.registry import register


@dataclass(frozen=True, kw_only=True)
class View:
    """Who sees whom: the rows computed now, and the columns they may attend.

    Shapes: `q_offsets`, `kv_offsets` int64[B+1]; `intervals` int32[Tq,4]; `q_positions`,
    `q_times_ms` int64[Tq]; `kv_times_ms` int64[Tk]. A target's position is its history's length:
    each is scored as if it came next.
    """

    q_offsets: Tensor
    kv_offsets: Tensor
    intervals: Tensor
    q_positions: Tensor
    q_times_ms: Tensor
    kv_times_ms: Tensor


@dataclass(frozen=True, kw_only=True)
class Past:
    """Keys and values computed before, and where they stand among the columns.

    Shapes: `keys[layer]` [Tp,H,D]; `values[layer]` [Tp,H,V]; `columns` int64[Tk], each a row of
    [past; rows computed now].
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    columns: Tensor


class HSTULayer(nn.Module):
    """U, V, Q, K = silu(f1(norm(X))); X + f2(norm(attend(Q, K, V)) * U)."""

    def __init__(self, config: ModelConfig, attention_backend: str) -> None:
        super().__init__()
        self.attention_backend = attention_backend
        # Who names the reference may have no compiler for any other kernel.
        self.row_backend = attention_backend if attention_backend == "reference" else AUTO
        self.num_heads = config.num_heads
        self.widths = (config.value_dim, config.value_dim, config.qk_dim, config.qk_dim)
        self.divisor = config.attention_divisor
        inner = config.num_heads * config.value_dim
        self.norm = nn.LayerNorm(config.embedding_dim)
        self.uvqk = nn.Linear(config.embedding_dim, config.num_heads * sum(self.widths))
        self.attended_norm = nn.LayerNorm(inner)
        self.output = nn.Linear(inner, config.embedding_dim)
        self.position_bias = nn.Parameter(torch.randn(config.max_positions) * 0.02)
        self.time_bias = nn.Parameter(torch.randn(config.num_time_buckets) * 0.02)

    def forward(
        self, x: Tensor, view: View, past: tuple[Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Transform rows [Tq,E]; also give their keys [Tq,H,D] and values [Tq,H,V].

        `past` is this layer's keys, its values and `Past.columns`.
        """
        projected = functional.silu(self.uvqk(self.norm(x)))
        joined = projected.unflatten(1, (self.num_heads, -1))
        gate, values, queries, keys = joined.split(self.widths, dim=2)
        all_keys, all_values = keys, values
        if past is not None:
            all_keys = torch.cat([past[0], keys]).index_select(0, past[2])
            all_values = torch.cat([past[1], values]).index_select(0, past[2])
        attended = interval_attention(
            queries,
            all_keys,
            all_values,
            q_offsets=view.q_offsets,
            kv_offsets=view.kv_offsets,
            intervals=view.intervals,
            score="silu",
            scale=queries.shape[2] ** -0.5,
            divisor=self.divisor,
            position_bias=self.position_bias,
            time_bias=self.time_bias,
            q_positions=view.q_positions,
            q_times_ms=view.q_times_ms,
            kv_times_ms=view.kv_times_ms,
            backend=self.attention_backend,
        )
        norm = self.attended_norm
        gated = norm_gate(
            attended, gate, norm.weight, norm.bias, epsilon=norm.eps, backend=self.row_backend
        )
        return x + self.output(gated), keys, values


@register("backbone", "hstu")
class HSTU(nn.Module):
    """A stack of layers over jagged sequences.

    With `rematerialize` a layer keeps its input and what attention gave for the backward pass, and
    computes the rest anew: the normalised input, U, V, Q, K and the gated output (selective
    rematerialisation, ULTRA-HSTU). No bit of any result changes.

    Raises:
        FreshetError: no such attention backend.
    """

    def __init__(
        self, config: ModelConfig, attention_backend: str, *, rematerialize: bool = False
    ) -> None:
        super().__init__()
        BACKENDS.check(attention_backend)
        self.rematerialize = rematerialize
        self.layers = nn.ModuleList(
            HSTULayer(config, attention_backend) for _ in range(config.num_layers)
        )

    def forward(self, x: Tensor, view: View, past: Past | None = None) -> Tensor:
        """Transform rows [Tq,E].

        Without `past` the rows are also the columns; with it the columns are `past.columns`.
        """
        for index, layer in enumerate(self.layers):
            own = None
            if past is not None:
                own = past.keys[index], past.values[index], past.columns
            if self.rematerialize and torch.is_grad_enabled():
                x = checkpoint(
                    _states, layer, x, view, own, use_reentrant=False, preserve_rng_state=False,
                    context_fn=partial(create_selective_checkpoint_contexts, _kept),
                )  # fmt: skip
            else:
                x = _states(layer, x, view, own)
        return x

    def encode(
        self, x: Tensor, view: View
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Transform rows [T,E] that are also the columns; also give every layer's keys and values."""
        all_keys, all_values = [], []
        for layer in self.layers:
            x, keys, values = layer(x, view)
            all_keys.append(keys)
            all_values.append(values)
        return x, tuple(all_keys), tuple(all_values)


def _states(
    layer: nn.Module, x: Tensor, view: View, past: tuple[Tensor, Tensor, Tensor] | None
) -> Tensor:
    states: Tensor = layer(x, view, past)[0]
    return states


def _kept(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    """Attention costs the most to compute anew."""
    if "interval_attention" in str(operator):
        return CheckpointPolicy.MUST_SAVE
    return CheckpointPolicy.PREFER_RECOMPUTE
