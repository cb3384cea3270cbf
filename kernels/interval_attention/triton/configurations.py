"""How large the tiles of each kernel are, on which architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

Kernel = Literal["forward", "query_gradient", "key_value_gradient", "bias_gradient"]


@dataclass(frozen=True)
class Configuration:
    """Rows and columns of a tile, warps of a program, tiles in flight, registers of a thread."""

    block_rows: int
    block_columns: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None


_WIDTHS = (64, 128, 256)
# (kernel, architecture, 32-bit), then by the larger of D and V: the fields of a
# configuration, the first tried that does not spill (kernels/AOT.md). A tuner's choice would change
# bits between runs. Left to itself, ptxas aims at too few registers for float32, and spills.
_CONFIGURATIONS: dict[tuple[Kernel, int, bool], tuple[tuple[int, ...], ...]] = {
    ("forward", 80, False): ((64, 64, 8, 2), (32, 32, 4, 1), (32, 32, 8, 1)),
    ("forward", 90, False): ((64, 64, 8, 2), (64, 32, 8, 2), (64, 32, 8, 2)),
    ("forward", 100, False): ((64, 32, 8, 2), (64, 32, 8, 2), (64, 16, 8, 1)),
    ("query_gradient", 80, False): ((64, 32, 8, 2), (64, 64, 8, 2), (32, 32, 8, 1)),
    ("query_gradient", 90, False): ((64, 64, 8, 2), (64, 64, 8, 2), (64, 32, 8, 2)),
    ("query_gradient", 100, False): ((64, 64, 8, 2), (64, 32, 8, 2), (64, 16, 8, 1)),
    ("key_value_gradient", 80, False): ((32, 32, 4, 2), (32, 32, 8, 2), (16, 32, 8, 1)),
    ("key_value_gradient", 90, False): ((64, 64, 8, 2), (32, 64, 8, 2), (16, 64, 8, 2)),
    ("key_value_gradient", 100, False): ((64, 64, 8, 2), (32, 64, 8, 2), (32, 64, 8, 1)),
    ("bias_gradient", 80, False): ((64, 16, 8, 2), (64, 16, 8, 2), (32, 16, 8, 2)),
    ("bias_gradient", 90, False): ((64, 16, 8, 2), (64, 16, 8, 2), (64, 16, 8, 2)),
    ("bias_gradient", 100, False): ((64, 16, 8, 2), (64, 16, 8, 1), (64, 16, 8, 2)),
    ("forward", 80, True): ((32, 32, 8, 1, 255), (16, 32, 8, 1, 255), (16, 16, 8, 1, 255)),
    ("forward", 90, True): ((32, 32, 8, 1, 255), (16, 32, 8, 1, 255), (16, 16, 8, 1, 255)),
    ("forward", 100, True): ((32, 32, 8, 1, 255), (16, 32, 8, 1, 255), (16, 16, 8, 1, 255)),
    ("query_gradient", 80, True): ((32, 32, 8, 1, 255), (16, 16, 8, 1, 255), (16, 16, 8, 2, 255)),
    ("query_gradient", 90, True): ((32, 32, 8, 1, 255), (16, 16, 8, 1, 255), (16, 16, 8, 2, 255)),
    ("query_gradient", 100, True): ((32, 32, 8, 1, 255), (16, 16, 8, 1, 255), (16, 16, 8, 2, 255)),
    ("key_value_gradient", 80, True): (
        (32, 32, 8, 1, 255),
        (16, 32, 8, 1, 255),
        (16, 16, 8, 1, 255),
    ),
    ("key_value_gradient", 90, True): (
        (32, 32, 8, 1, 255),
        (16, 32, 8, 1, 255),
        (16, 16, 8, 1, 255),
    ),
    ("key_value_gradient", 100, True): (
        (32, 32, 8, 1, 255),
        (16, 32, 8, 1, 255),
        (16, 16, 8, 1, 255),
    ),
    ("bias_gradient", 80, True): ((16, 16, 4, 1, 255), (16, 32, 8, 1, 255), (16, 16, 8, 2, 255)),
    ("bias_gradient", 90, True): ((16, 16, 4, 1, 255), (16, 32, 8, 1, 255), (16, 16, 8, 2, 255)),
    ("bias_gradient", 100, True): ((16, 16, 4, 1, 255), (16, 32, 8, 1, 255), (16, 16, 8, 2, 255)),
}


def configuration(kernel: Kernel, width: int, dtype: torch.dtype, arch: int) -> Configuration:
    """The tiles of a kernel on sm_80, sm_90 or sm_100; `width` is the larger of D and V."""
    size = next(at for at, limit in enumerate(_WIDTHS) if width <= limit)
    return Configuration(*_CONFIGURATIONS[kernel, arch, dtype == torch.float32][size])


def arch_of(x: Tensor) -> int:
    """The architecture whose tiles a tensor's device takes; the interpreter takes those of sm_80.

    What is neither a Hopper nor a data centre's Blackwell has the matrix units of sm_80, and less
    shared memory: the tiles of sm_80 stay below 99 KiB.
    """
    major = torch.cuda.get_device_capability(x.device)[0] if x.is_cuda else 8
    return {9: 90, 10: 100}.get(major, 80)


def padded(width: int) -> int:
    """The power of two a width is padded to."""
    return max(16, 1 << (width - 1).bit_length())


def constants_of(
    chosen: Configuration,
    *,
    softmax: bool,
    num_positions: int,
    num_buckets: int,
    width: int,
    value_width: int,
    precision: str,
) -> dict[str, Any]:
    """The constants that every kernel is compiled for."""
    return {
        "SOFTMAX": softmax, "NUM_POSITIONS": num_positions, "NUM_BUCKETS": num_buckets,
        "WIDTH": width, "VALUE_WIDTH": value_width,
        "BLOCK_WIDTH": padded(width), "BLOCK_VALUE": padded(value_width),
        "BLOCK_ROWS": chosen.block_rows, "BLOCK_COLUMNS": chosen.block_columns,
        "PRECISION": precision,
    }  # fmt: skip
