"""Safetensors files, written without a copy of their tensors in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from recbole_siger.common.files import atomic_path

__all__ = ["write_tensor_file"]

_OS_ERROR = re.compile(r"\(os error (\d+)\)")


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors by name to a safetensors file, whole or not at all.

    The file has the permissions of any new file. Tensors on a GPU are copied to the CPU. A tensor on the CPU
    is copied only if its memory is not contiguous or belongs to two tensors.

    Args:
        path: The file.
        tensors: Dense tensors of any shape.
        metadata: Text by name. With more than one name, equal content does not give equal bytes.

    Raises:
        OSError: If the file cannot be written.
    """
    with atomic_path(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode & 0o777
        try:
            save_file(_separate(tensors), temporary, dict(metadata))
        except SafetensorError as error:
            if found := _OS_ERROR.search(str(error)):
                raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from None
            raise
        temporary.chmod(mode)  # `save_file` makes a file that only its owner can read


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU; no two of them share memory."""
    separate: dict[str, Tensor] = {}
    known: set[int] = set()
    for name, tensor in tensors.items():
        here = tensor.detach().cpu().contiguous()
        storage = here.untyped_storage().data_ptr()
        if storage in known:
            here = here.clone(memory_format=torch.contiguous_format)
        elif here.numel():
            known.add(storage)
        separate[name] = here
    return separate
