"""Training state as tensors and JSON: the content of a pickle without a pickle.

Each ``pack_*`` returns tensors by name and the rest as JSON; ``unpack_*`` restores them. A file may come from
anyone. Its JSON must have the forms of this module; for other damage ``unpack_*`` raises a ValueError,
KeyError, TypeError, RuntimeError or OverflowError.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from recbole_siger.common.json_files import Form, is_finite

__all__ = [
    "KINDS",
    "OPTIMIZER",
    "RANDOM",
    "State",
    "pack",
    "pack_optimizer",
    "pack_random",
    "select",
    "unpack",
    "unpack_optimizer",
    "unpack_random",
]

State = dict[str, Tensor]

KINDS: Form = {"*": {"kind": str}}
"""Form of the JSON of :func:`pack`."""

OPTIMIZER: Form = {"values": dict, "groups": [dict]}
"""Form of the JSON of :func:`pack_optimizer`."""

RANDOM: Form = {
    "numpy": {"pos": int, "has_gauss": int, "gauss": float},
    "python": [(int, [int], float, None)],
}
"""Form of the JSON of :func:`pack_random`."""


_N_KEY = 624  # words of the Mersenne Twister


def select(state: Mapping[str, Tensor], prefix: str) -> State:
    """Return the tensors whose names begin with ``prefix``; the prefix is removed."""
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def pack(values: Mapping[str, Any]) -> tuple[State, dict[str, Any]]:
    """Split RecBole's ``other_parameter`` into tensors and JSON: arrays, sparse matrices, numbers, None.

    Raises:
        TypeError: For any other type, which would require a pickle.
    """
    state: State = {}
    kinds: dict[str, Any] = {}
    for name, value in values.items():
        if sp.issparse(value):
            matrix = value.tocsr()
            parts = {"data": matrix.data, "indices": matrix.indices, "indptr": matrix.indptr}
            state |= {
                f"{name}.{part}": torch.from_numpy(np.ascontiguousarray(a)) for part, a in parts.items()
            }
            kinds[name] = {"kind": "sparse", "shape": list(matrix.shape), "format": value.format}
        elif isinstance(value, np.ndarray):
            state[name], kinds[name] = torch.from_numpy(np.ascontiguousarray(value)), {"kind": "array"}
        elif isinstance(value, Tensor):
            state[name], kinds[name] = value.detach(), {"kind": "tensor"}
        elif value is None or isinstance(value, bool | int | float | str):
            kinds[name] = {"kind": "value", "value": value}
        elif isinstance(value, np.generic):
            kinds[name] = {"kind": "value", "value": value.item()}
        else:
            raise TypeError(f"{name}: a {type(value).__name__} cannot be saved without pickle")
    return state, kinds


def unpack(state: Mapping[str, Tensor], kinds: Mapping[str, Any]) -> dict[str, Any]:
    """Undo :func:`pack`."""
    values: dict[str, Any] = {}
    for name, kind in kinds.items():
        if kind["kind"] == "sparse":
            data, indices, indptr = (
                state[f"{name}.{part}"].numpy() for part in ("data", "indices", "indptr")
            )
            matrix = sp.csr_matrix((data, indices, indptr), shape=kind["shape"])
            matrix.check_format(full_check=True)  # else a product reads memory outside the matrix
            values[name] = matrix.asformat(kind["format"])
        elif kind["kind"] == "array":
            values[name] = state[name].numpy()
        else:
            values[name] = state[name] if kind["kind"] == "tensor" else kind["value"]
    return values


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[State, dict[str, Any]]:
    """Split an optimizer's state into tensors ``<parameter>.<name>`` and JSON."""
    whole = optimizer.state_dict()
    flat = {f"{i}.{name}": value for i, entries in whole["state"].items() for name, value in entries.items()}
    tensors = {key: value for key, value in flat.items() if isinstance(value, Tensor)}
    values = {key: value for key, value in flat.items() if key not in tensors}
    return tensors, {"values": values, "groups": whole["param_groups"]}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: State, kinds: Mapping[str, Any]) -> None:
    """Load the result of :func:`pack_optimizer` into an optimizer.

    Numbers such as the learning rate come from the file; flags are those of the optimizer.
    """
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **kinds["values"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for index, entries in state.items():
        for name, value in entries.items():
            own = parameters[index].shape if 0 <= index < len(parameters) else None
            fits = (
                value.shape in (own, ())
                if isinstance(value, Tensor)
                else value is None or (name, True) == ("step", is_finite(value))
            )
            if own is None or not fits or entries.keys() != next(iter(state.values())).keys():
                raise ValueError(f"{name} of parameter {index} is not of this optimizer")
    own_groups = optimizer.state_dict()["param_groups"]
    groups = [_numbers_from(group, own) for group, own in zip(kinds["groups"], own_groups, strict=True)]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _numbers_from(group: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return an optimizer's own group of options with the numbers of another."""
    found = dict(own)
    for name, value in own.items():
        several = isinstance(value, tuple)  # betas
        if name in group and all(type(one) in (int, float) for one in (value if several else [value])):
            numbers = group[name] if several else [group[name]]
            is_right = isinstance(numbers, list) and len(numbers) == (len(value) if several else 1)
            if not is_right or not all(is_finite(number) and number >= 0 for number in numbers):
                raise ValueError(f"the optimizer has {name}={group[name]!r}, expected numbers from 0")
            found[name] = tuple(numbers) if several else numbers[0]
    return found


def pack_random(
    generators: Mapping[str, torch.Generator], device: torch.device
) -> tuple[State, dict[str, Any]]:
    """Capture the random streams of Python, numpy, torch and the given generators."""
    numpy_state = np.random.get_state(legacy=False)  # noqa: NPY002  # RecBole's sampler draws from it
    key = numpy_state["state"]["key"].astype(np.int64)
    state = {"torch": torch.get_rng_state(), "numpy": torch.from_numpy(key)}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    state |= {f"generator.{name}": generator.get_state() for name, generator in generators.items()}
    rest = {name: numpy_state[name] for name in ("has_gauss", "gauss")}
    rest["pos"] = numpy_state["state"]["pos"]
    return state, {"numpy": rest, "python": json.loads(json.dumps(random.getstate()))}


def unpack_random(
    generators: Mapping[str, torch.Generator], device: torch.device, state: State, kinds: Mapping[str, Any]
) -> None:
    """Restore the random streams to the state that :func:`pack_random` captured."""
    rest, (version, internal, gauss) = kinds["numpy"], kinds["python"]
    key = state["numpy"].numpy().astype(np.uint32)
    # numpy does not check these, and reads memory outside the key.
    if key.shape != (_N_KEY,) or not 0 <= rest["pos"] <= _N_KEY or rest["has_gauss"] not in (0, 1):
        raise ValueError("numpy's random state is damaged")
    np.random.set_state(("MT19937", key, rest["pos"], rest["has_gauss"], rest["gauss"]))  # noqa: NPY002  # as above
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
    for name, generator in generators.items():
        generator.set_state(state[f"generator.{name}"])
