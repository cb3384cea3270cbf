"""How an operation becomes operators that autograd, torch.compile and torch.export see through.

A backend is a pair of operators, an operation and its backward, in a namespace of its own
(`freshet_cpu`, `freshet_triton`, ...). Schema, shapes and gradients are those of the operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ingest.runtime.errors import FreshetError


@dataclass(frozen=True, kw_only=True)
class Operation:
    """All of an operation that does not depend on who computes it.

    `arguments` is the schema of what goes in, `num_tensors` tensors first; `trained` are the places
    of those with gradients. `shapes` takes them and gives uninitialised results; only the first
    result is differentiable. `kept` are the places of the results that the backward reads.
    """

    name: str
    arguments: str
    num_tensors: int
    trained: tuple[int, ...]
    shapes: Callable[..., Tensor | tuple[Tensor, ...]]
    num_results: int = 1
    kept: tuple[int, ...] = ()

    def declare(self, namespace: str) -> None:
        """Make both operators known in a namespace whose C++ implements them.

        The backward takes the first result's gradient, the results kept and all arguments; it gives
        the gradients of what is trained, empty for what is absent.
        """
        forward, backward = f"{namespace}::{self.name}", f"{namespace}::{self.name}_backward"
        kept = "".join(f"Tensor result_{place}, " for place in self.kept)
        torch.library.define(forward, f"({self.arguments}) -> {_tensors(self.num_results)}")
        torch.library.define(
            backward,
            f"(Tensor gradient, {kept}{self.arguments}) -> {_tensors(len(self.trained))}",
        )
        torch.library.register_fake(forward, self.shapes)
        torch.library.register_fake(backward, self._gradient_shapes)

        def differentiate(ctx: Any, gradient: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
            operator = getattr(getattr(torch.ops, namespace), f"{self.name}_backward")
            found = operator(gradient, *ctx.saved_tensors, *ctx.constants)
            gradients: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
            for place, each in zip(self.trained, found, strict=True):
                gradients[place] = each if ctx.needs_input_grad[place] else None
            return tuple(gradients)

        torch.library.register_autograd(forward, differentiate, setup_context=self._keep)
        torch.library.register_autograd(backward, self._refuse_second_derivative)

    def define(
        self, namespace: str, forward: Callable[..., Any], backward: Callable[..., Any]
    ) -> None:
        """Make both operators known in a namespace, computed by two Python functions."""
        self.declare(namespace)
        for name, function in ((self.name, forward), (f"{self.name}_backward", backward)):
            torch.library.impl(f"{namespace}::{name}", "CompositeExplicitAutograd", function)

    def _gradient_shapes(self, *inputs: Any) -> tuple[Tensor, ...]:
        arguments = inputs[1 + len(self.kept) :]
        empty = inputs[0].new_empty(0)
        trained = [arguments[place] for place in self.trained]
        return tuple(
            torch.empty_like(empty) if each is None else each.new_empty(each.shape)
            for each in trained
        )

    def _keep(self, ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        results = output if isinstance(output, tuple) else (output,)
        kept = [results[place] for place in self.kept]
        ctx.save_for_backward(*kept, *inputs[: self.num_tensors])
        ctx.constants = inputs[self.num_tensors :]
        ctx.mark_non_differentiable(*results[1:])

    def _refuse_second_derivative(self, *_: Any) -> None:
        raise FreshetError(
            f"{self.name.replace('_', ' ')} has no second derivative",
            hint='backend="reference" has one, outside of torch.compile',
        )


def _tensors(num: int) -> str:
    return f"({', '.join(['Tensor'] * num)})"
