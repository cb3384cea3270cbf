"""How much memory a forward leaves behind for its backward."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class ActivationMeter(TorchDispatchMode):
    """Sees every tensor computed in its `with` block; `num_bytes` counts those that still live.

    Whoever keeps them: autograd, a checkpointed layer, the caller. A tensor's views count once.

    Example:
        >>> import torch
        >>> x = torch.ones(10, requires_grad=True)
        >>> with ActivationMeter() as meter:
        ...     y = x.exp().sum()
        >>> meter.num_bytes  # exp keeps its 10 numbers; the sum is y
        44
    """

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        self._seen: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and remember what it gave."""
        given = {
            each.untyped_storage()._cdata
            for each in tree_leaves((args, kwargs))
            if isinstance(each, Tensor)
        }
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                if storage._cdata not in given:
                    self._seen[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        return result

    @property
    def num_bytes(self) -> int:
        """Bytes of the tensors seen that somebody still keeps."""
        return sum(size for storage, size in self._seen.values() if not storage.expired())
