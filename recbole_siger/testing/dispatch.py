"""Count what a training step would launch on a GPU, and find what would wait or differ between two runs.

The step runs on the CPU with the choices of CUDA forced. The numbers are those of operations that PyTorch
dispatches; nothing is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from recbole_siger.model.device import CUDA, Choices, force_choices

__all__ = ["StepCount", "StepRecorder", "count_step", "training_step"]

# Operations that allocate, rename or describe tensors.
_FREE = {
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"),
    *("alias", "detach", "detach_", "_unsafe_view", "_reshape_alias", "lift_fresh", "view_as_real"),
    *(
        "unsqueeze_",
        "squeeze_",
        "transpose_",
        "t_",
        "as_strided_",
        "is_same_size",
        "_has_compatible_shallow_copy_type",
        "sym_size",
        "sym_numel",
        "is_pinned",
    ),
}
# Kernels of an operation with more than one, as PyTorch's CUDA code launches them: scans and sorts of cub
# have a kernel for each pass. The number for `sort` is that of more than 4,096 numbers of 4 bytes; numbers of
# 8 bytes take 4 passes more. Runs use torch's deterministic kernels, in which a write by indices is a sort.
_KERNELS = {
    **{"cumsum": 2, "cumsum_": 2, "randperm": 9, "sort": 9, "topk": 3, "multinomial": 4},
    **{"slice_backward": 2, "select_backward": 2, "embedding_dense_backward": 2},
    **{"_embedding_bag_backward": 9, "_embedding_bag_dense_backward": 9},
}
_SMALL_SORT, _SMALL = 3, 4096
_SORTED_INDEX_PUT = 8
# Operations whose result, or whose number of results, the host reads.
_WAITING = {
    *("_local_scalar_dense", "item", "nonzero", "nonzero_numpy", "argwhere", "masked_select", "equal"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "is_nonzero", "bincount", "histc"),
    *("repeat_interleave", "_assert_async", "allclose", "combinations"),
}
# From the list of torch.use_deterministic_algorithms: sums by atomic operations.
_ATOMIC = {
    *("index_add", "index_add_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_"),
    *("put_", "median", "nll_loss2d_forward", "_embedding_bag_backward_max", "index_reduce", "index_reduce_"),
}


@dataclass
class StepCount:
    """What one step dispatched.

    Attributes:
        operations: How often each operation ran that launches a kernel.
        launches: Estimated number of kernels.
        waiting: Operations for which the host waits.
        varying: Operations whose result can differ between two runs.
        shapes: Name and shapes of the results of each operation in order.
    """

    operations: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    waiting: Counter[str] = field(default_factory=Counter)
    varying: Counter[str] = field(default_factory=Counter)
    shapes: list[tuple[str, tuple[tuple[int, ...], ...]]] = field(default_factory=list)

    def table(self) -> str:
        """Return the operations, the most frequent first, as text."""
        return ", ".join(f"{name} {n}" for name, n in self.operations.most_common())


class StepRecorder(TorchDispatchMode):
    """Record the operations within the block, those of backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.count = StepCount()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record it."""
        kwargs = kwargs or {}
        name = func._schema.name
        if not name.startswith("aten::"):  # the profiler's
            return func(*args, **kwargs)
        name = name.removeprefix("aten::")
        if any(found := _reasons(name, func, args, kwargs)):
            self.count.waiting[name] += found[0]
            self.count.varying[name] += found[1]
        result = func(*args, **kwargs)
        if name in _FREE or func.is_view or name in _WAITING or not _makes_tensor(result):
            return result
        self.count.operations[name] += 1
        self.count.launches += _kernels(name, args, kwargs)
        shapes = tuple(tuple(x.shape) for x in _tensors(result))
        self.count.shapes.append((name, shapes))
        return result


def _reasons(name: str, func: Any, args: Any, kwargs: Any) -> tuple[bool, bool]:
    """Say whether an operation makes the host wait, and whether its result can differ between runs."""
    waits, varies = name in _WAITING, name in _ATOMIC
    if name == "lift_fresh":  # a tensor of Python numbers, which is copied to the device
        waits = True
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        waits |= any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    if name in ("index_put", "index_put_", "_index_put_impl_") and not _accumulates(args, kwargs):
        varies |= _writes_twice(args[1], args[2])
    if name in ("index_copy", "index_copy_", "scatter", "scatter_") and isinstance(args[3], Tensor):
        varies |= _writes_twice([args[2]], args[3]) if args[2].dim() == 1 else _repeats(args[2], args[1])
    if name in ("cumsum", "cumsum_"):  # sums of floats by blocks that finish in any order
        varies |= args[0].is_floating_point() or args[0].is_complex()
    if name in ("_to_copy", "copy_") and str(kwargs.get("device", "")).startswith("cpu"):
        waits = True
    return waits, varies


def _accumulates(args: Any, kwargs: Any) -> bool:
    return bool(args[3] if len(args) > 3 else kwargs.get("accumulate", False))


def _writes_twice(indices: Any, value: Tensor) -> bool:
    """Say whether two different rows are written to one place."""
    if len(indices) != 1 or indices[0] is None or indices[0].dim() != 1 or value.dim() == 0:
        return value.dim() != 0
    index = indices[0]
    value = value.expand(len(index), *value.shape[1:]).reshape(len(index), -1)
    last = {int(i): value[k] for k, i in enumerate(index)}
    return not all(torch.equal(value[k], last[int(i)]) for k, i in enumerate(index))


def _repeats(index: Tensor, dim: int) -> bool:
    """Say whether an index occurs twice along a dimension."""
    ordered = index.sort(dim=dim).values
    return bool((ordered.diff(dim=dim) == 0).any())


def _kernels(name: str, args: Any, kwargs: Any) -> int:
    if name in ("index_put", "index_put_", "_index_put_impl_"):
        return _SORTED_INDEX_PUT
    if name in ("index_copy", "index_copy_", "scatter", "scatter_") and isinstance(args[3], Tensor):
        return _SORTED_INDEX_PUT
    if name == "sort":
        small, passes = args[0].shape[-1] <= _SMALL, 4 * (args[0].element_size() == 8)
        return _SMALL_SORT if small else _KERNELS[name] + passes
    return _KERNELS.get(name, 1)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for part in result:
            yield from _tensors(part)


def _makes_tensor(result: Any) -> bool:
    return result is None or any(True for _ in _tensors(result))


def training_step(model: Any, batch: Any, optimizer: torch.optim.Optimizer) -> None:
    """Compute the losses of a batch and their gradients, and change the parameters."""
    optimizer.zero_grad()
    torch.stack(model.calculate_loss(batch)).sum().backward()
    optimizer.step()


def count_step(step: Callable[[], Any], choices: Choices | None = CUDA) -> StepCount:
    """Run a function once with forced choices and return what it dispatched.

    Args:
        step: For example a training step.
        choices: Whose; None: those of the device that the tensors are on.
    """
    with force_choices(choices), StepRecorder() as recorder:
        step()
    return recorder.count
