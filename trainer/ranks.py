"""The ranks of one training run and the few things they agree on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """One rank, how many there are, and where its tensors live."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes what there is one of."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """Element-wise sums over the ranks; exact for whole numbers below 2**53."""
        if self.world == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(value) for value in total.cpu()]

    def sum_in_place(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the ranks."""
        if self.world > 1:
            dist.all_reduce(tensor)

    def gather_rows(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Every rank's rows [n_r, ...], joined in rank order, on every rank."""
        if self.world == 1:
            return rows
        sizes = [int(size) for size in self.gather_objects(len(rows))]
        padded = np.zeros((max(sizes), *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        mine = torch.from_numpy(padded).to(self.device)
        parts = [torch.empty_like(mine) for _ in sizes]
        dist.all_gather(parts, mine)
        return np.concatenate(
            [part.cpu().numpy()[:size] for part, size in zip(parts, sizes, strict=True)]
        )

    def gather_objects(self, value: object) -> list[Any]:
        """Every rank's value, in rank order, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def from_first(self, value: object) -> Any:
        """Rank 0's value on every rank."""
        if self.world == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]


def join_ranks(device: str = "cpu") -> Ranks:
    """Join the run that torchrun's environment names, or be the only rank of one.

    Ends with `leave_ranks`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    backend = "nccl" if device == "cuda" else "gloo"
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    if world == 1:
        # A rank alone needs no port and no host name that resolves.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        store = dist.HashStore()  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=store, rank=0, world_size=1)
    else:
        dist.init_process_group(backend)
    return Ranks(rank=rank, world=world, device=torch.device(device))


def leave_ranks() -> None:
    """Leave the run."""
    dist.destroy_process_group()
