"""The item table: TorchRec, row-wise sharded over the ranks, with fused row-wise Adagrad.

TorchRec keeps the optimizer's state apart from the module's; what is saved here is both, as whole
tables, so that any number of ranks can read it.
"""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor

from trainer.ranks import Ranks

_TABLE = "item"
_WEIGHT = f"embeddings.{_TABLE}.weight"
_MOMENTUM = f"{_TABLE}.momentum1"
# Rows started by one seed: a whole chunk is drawn to start one row of it anew.
_CHUNK_ROWS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class TableState:
    """The whole table: `weight` float32[R,E], `momentum` float32[R] (the sum of squared gradients)."""

    weight: Tensor
    momentum: Tensor


class ItemTable:
    """R rows of width E; every call but `reset` is collective.

    Args:
        init_std: standard deviation of a fresh row; a row's start depends on `seed` and the row
            alone, never on how the rows are sharded.
    """

    def __init__(
        self,
        *,
        num_rows: int,
        embedding_dim: int,
        learning_rate: float,
        init_std: float,
        seed: int,
        ranks: Ranks,
    ) -> None:
        self.num_rows = num_rows
        self.embedding_dim = embedding_dim
        self._ranks = ranks
        self._sharded = _shard(num_rows, embedding_dim, learning_rate, ranks)
        shard = self._sharded.state_dict()[_WEIGHT].local_shards()
        states = self._sharded.fused_optimizer.state_dict()["state"][_WEIGHT]
        self._first_row = shard[0].metadata.shard_offsets[0] if shard else 0
        self._weight: Tensor = (
            shard[0].tensor if shard else torch.empty(0, embedding_dim, device=ranks.device)
        )
        momentum = states[_MOMENTUM].local_shards()
        self._momentum: Tensor = (
            momentum[0].tensor if momentum else torch.empty(0, device=ranks.device)
        )
        self._init_std, self._seed = init_std, seed
        self.reset(np.arange(num_rows))

    def reset(self, rows: npt.NDArray[np.int64]) -> None:
        """Start rows, int64[n] ascending and the same on every rank, as the table started them.

        Their part of the optimizer's state is 0 again, too.
        """
        end = self._first_row + len(self._weight)
        own = rows[np.searchsorted(rows, self._first_row) : np.searchsorted(rows, end)]
        for chunk in np.unique(own // _CHUNK_ROWS).tolist():
            first = chunk * _CHUNK_ROWS
            in_chunk = own[np.searchsorted(own, first) : np.searchsorted(own, first + _CHUNK_ROWS)]
            generator = torch.Generator().manual_seed(self._seed * 1_000_003 + chunk)
            start = torch.randn(_CHUNK_ROWS, self.embedding_dim, generator=generator)
            at = torch.from_numpy(in_chunk - self._first_row).to(self._weight.device)
            fresh = start[torch.from_numpy(in_chunk - first)] * self._init_std
            with torch.no_grad():
                self._weight[at] = fresh.to(self._weight.device)
                self._momentum[at] = 0.0

    def lookup(self, rows: Tensor) -> Tensor:
        """Rows int64[n] -> float32[n,E], in order.

        `backward` on the result updates the rows at once; TorchRec divides the gradients by the
        number of ranks, so a loss scaled for an average over ranks is right here too.
        """
        from torchrec import KeyedJaggedTensor

        features = KeyedJaggedTensor(
            keys=[_TABLE], values=rows, lengths=torch.tensor([len(rows)], device=rows.device)
        )
        found: Tensor = self._sharded(features)[_TABLE].values()
        return found

    def gather(self) -> TableState | None:
        """A copy of the whole table on rank 0, on the CPU; None on other ranks."""
        weight = self._gather(self._weight)
        momentum = self._gather(self._momentum)
        if weight is None or momentum is None:
            return None
        return TableState(weight=weight, momentum=momentum)

    def _gather(self, shard: Tensor) -> Tensor | None:
        if self._ranks.world == 1:
            return shard.detach().cpu().clone()
        block = -(-self.num_rows // self._ranks.world)
        padded = shard.new_zeros((block, *shard.shape[1:]))
        padded[: len(shard)] = shard.detach()
        if not self._ranks.is_first:
            dist.send(padded, dst=0)
            return None
        blocks = [padded.to("cpu", copy=True)]
        # One block at a time: the whole table need not fit beside rank 0's shard on its device.
        for rank in range(1, self._ranks.world):
            dist.recv(padded, src=rank)
            blocks.append(padded.to("cpu", copy=True))
        return torch.cat(blocks)[: self.num_rows]

    def load(self, state: TableState) -> None:
        """Take the own rows of a whole table; the number of ranks may differ from the writer's."""
        end = self._first_row + len(self._weight)
        self._weight.copy_(state.weight[self._first_row : end])
        self._momentum.copy_(state.momentum[self._first_row : end])


def _shard(num_rows: int, embedding_dim: int, learning_rate: float, ranks: Ranks) -> Any:
    # Imported here: it takes seconds, and configuration errors should show before.
    for noisy in ("torchrec", "torch.fx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="torchrec")
    import torchrec
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.model_parallel import DistributedModelParallel
    from torchrec.distributed.planner import (
        EmbeddingShardingPlanner,
        ParameterConstraints,
        Topology,
    )
    from torchrec.distributed.types import ShardingType
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    collection = torchrec.EmbeddingCollection(
        device=torch.device("meta"),
        tables=[
            torchrec.EmbeddingConfig(
                name=_TABLE,
                embedding_dim=embedding_dim,
                num_embeddings=num_rows,
                feature_names=[_TABLE],
            )
        ],
    )
    apply_optimizer_in_backward(
        torchrec.optim.RowWiseAdagrad, collection.parameters(), {"lr": learning_rate}
    )
    sharder = EmbeddingCollectionSharder()
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=ranks.world, compute_device=ranks.device.type),
        constraints={_TABLE: ParameterConstraints(sharding_types=[ShardingType.ROW_WISE.value])},
    )
    plan = planner.collective_plan(collection, [sharder], dist.GroupMember.WORLD)
    return DistributedModelParallel(
        collection,
        device=ranks.device,
        plan=plan,
        sharders=[sharder],
        init_parameters=False,
        init_data_parallel=False,
    )
