"""Backends: a wish is met by one that can, or refused with the names of those that could."""

from __future__ import annotations

import pytest
import torch

from ingest.runtime.errors import FreshetError
from kernels.dispatch import Backends, Wish
from kernels.grouped_linear.dispatch import BACKENDS as LINEAR
from kernels.grouped_norm.dispatch import backends as backends_of_norm
from kernels.interval_attention.dispatch import BACKENDS


def wish(device: str = "cpu", dtype: torch.dtype = torch.float32, width: int = 16) -> Wish:
    return Wish(device=device, dtype=dtype, width=width)


@pytest.mark.parametrize("backends", [BACKENDS, LINEAR, backends_of_norm("norm")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_auto_on_a_processor_is_the_fast_one(dtype: torch.dtype, backends: Backends) -> None:
    assert backends.choose("auto", wish(dtype=dtype)) is backends.table["cpu"]


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (wish(dtype=torch.float8_e5m2), "torch.float8_e5m2 .it has .*torch.float32, torch.float64"),
        (wish(width=257), "width 257 .it has up to 256"),
    ],
)
@pytest.mark.parametrize("name", ["auto", "cpu"])
def test_what_no_backend_asked_for_can_do_is_refused_with_those_that_can(
    name: str, asked: Wish, named: str
) -> None:
    with pytest.raises(FreshetError, match=named) as caught:
        BACKENDS.choose(name, asked)
    assert "backends that can: reference" in str(caught.value)


def test_the_reference_is_taken_where_it_is_named() -> None:
    assert (
        BACKENDS.choose("reference", wish(dtype=torch.float8_e5m2)) is BACKENDS.table["reference"]
    )


def test_an_unknown_backend_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(FreshetError, match=r"'auto'.*'cpu'.*'reference'"):
        BACKENDS.check("cuda-graphs")
