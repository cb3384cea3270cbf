"""How large the tiles of each kernel are, on which architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

Kernel = Literal["forward", "query_gradient", "key_value_gradient", "bias_gradient"]


@dataclass(frozen=True)
class Configuration:
    """Rows and columns of a tile, warps of a program, and tiles in flight."""

    block_rows: int
    block_columns: int
    num_warps: int
    num_stages: int


# (kernel, wide, 32-bit): wide is a D or V above 64, very wide one above 128. The choice is a function
# of the kernel, the widths and the type alone: a tuner's choice would change the bits between runs.
_CONFIGURATIONS: dict[tuple[Kernel, int, bool], Configuration] = {
    ("forward", 64, False): Configuration(64, 64, 4, 3),
    ("forward", 128, False): Configuration(64, 64, 8, 2),
    ("forward", 256, False): Configuration(64, 32, 4, 2),
    ("forward", 64, True): Configuration(32, 32, 4, 2),
    ("forward", 128, True): Configuration(32, 32, 4, 1),
    ("forward", 256, True): Configuration(16, 16, 4, 1),
    ("query_gradient", 64, False): Configuration(64, 64, 8, 2),
    ("query_gradient", 128, False): Configuration(64, 64, 8, 2),
    ("query_gradient", 256, False): Configuration(64, 32, 8, 1),
    ("query_gradient", 64, True): Configuration(32, 32, 4, 1),
    ("query_gradient", 128, True): Configuration(32, 32, 4, 1),
    ("query_gradient", 256, True): Configuration(16, 16, 4, 1),
    ("key_value_gradient", 64, False): Configuration(32, 64, 8, 2),
    ("key_value_gradient", 128, False): Configuration(32, 64, 8, 2),
    ("key_value_gradient", 256, False): Configuration(32, 64, 8, 1),
    ("key_value_gradient", 64, True): Configuration(32, 32, 4, 1),
    ("key_value_gradient", 128, True): Configuration(32, 32, 4, 1),
    ("key_value_gradient", 256, True): Configuration(16, 16, 4, 1),
    ("bias_gradient", 64, False): Configuration(64, 16, 8, 1),
    ("bias_gradient", 128, False): Configuration(64, 16, 8, 2),
    ("bias_gradient", 256, False): Configuration(64, 32, 4, 1),
    ("bias_gradient", 64, True): Configuration(32, 32, 4, 1),
    ("bias_gradient", 128, True): Configuration(32, 32, 4, 1),
    ("bias_gradient", 256, True): Configuration(16, 16, 4, 1),
}


def configuration(
    kernel: Kernel, width: int, dtype: torch.dtype, arch: int, precision: str
) -> Configuration:
    """The block sizes of a kernel; `width` is the larger of D and V."""
    size = next(limit for limit in (64, 128, 256) if width <= limit)
    return _CONFIGURATIONS[kernel, size, dtype == torch.float32]


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
