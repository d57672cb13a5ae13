"""Training state as tensors and JSON: the content of a pickle without a pickle.

Each ``pack_*`` returns tensors by name and the rest as JSON; ``unpack_*`` restores them.
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

__all__ = [
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
            values[name] = sp.csr_matrix((data, indices, indptr), shape=kind["shape"]).asformat(
                kind["format"]
            )
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
    """Load the result of :func:`pack_optimizer` into an optimizer."""
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**tensors, **kinds["values"]}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": kinds["groups"]})


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
    np.random.set_state(("MT19937", key, rest["pos"], rest["has_gauss"], rest["gauss"]))  # noqa: NPY002  # as above
    random.setstate((version, tuple(internal), gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    for name, generator in generators.items():
        generator.set_state(state[f"generator.{name}"])
