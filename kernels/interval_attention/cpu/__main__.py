"""Builds the library and says where it is: `python -m kernels.interval_attention.cpu`."""

from __future__ import annotations

from kernels.interval_attention.cpu.build import build

print(build())
