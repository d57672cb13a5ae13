"""A cache of graphs, addressed by the content of their inputs.

A file's name contains a digest of everything that decides a graph: the tensors, the arguments and the sources
of ``recbole_siger/graph``. Any change gives another name, so a stored graph is never out of date. Unused
files remain until ``recbole-siger cache clear``. A stored graph equals the builder's graph, except that the
builder of approximate neighbours can find others on another processor.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recbole_siger.common.digests import canonical_digest
from recbole_siger.common.files import delete_leftovers
from recbole_siger.common.tensor_files import write_tensor_file
from recbole_siger.errors import UserError

__all__ = ["Entry", "GraphCache", "GraphRequest"]

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"

_MAX_AGE = 86_400.0  # seconds; a temporary file of that age is of a killed process
# What a damaged file raises: no safetensors, no metadata or other metadata, ids outside of the shape.
_DAMAGED = (SafetensorError, LookupError, TypeError, ValueError, RuntimeError, RecursionError)


class Entry(NamedTuple):
    """A file of the cache; a damaged file has no shape and no edges."""

    kind: str
    shape: tuple[int, ...]
    n_edges: int
    n_bytes: int
    path: Path


class GraphRequest(NamedTuple):
    """The arguments of one call of :meth:`GraphCache.cached`."""

    kind: str
    build: Callable[..., Tensor]
    tensors: Mapping[str, Tensor]
    arguments: Mapping[str, str | int | float | bool | None]


class GraphCache:
    """A folder of graphs.

    Args:
        cache_dir: The parent folder of ``graphs/``; ``None`` for the user's cache, ``"none"`` to store
            nothing.

    Attributes:
        folder: Folder of the graphs; ``None`` if nothing is stored.
        requests: The calls of :meth:`cached` so far, in their order.
    """

    def __init__(self, cache_dir: str | Path | None = None) -> None:
        off = str(cache_dir) == "none"
        try:
            root = _user_folder() if cache_dir is None else Path(cache_dir).expanduser()
            self.folder = None if off else root / "graphs"
        except RuntimeError as error:  # the user has no home folder
            self.folder = None
            logger.warning("graphs are not stored: %s; name a folder by cache_dir", error)
        self.requests: list[GraphRequest] = []

    def learned(
        self,
        kind: str,
        build: Callable[..., Tensor],
        tensors: Mapping[str, Tensor],
        arguments: Mapping[str, str | int | float | bool | None],
    ) -> Tensor:
        """Return ``build(**tensors, **arguments)``, a graph of learned numbers, which is never stored."""
        return build(**tensors, **arguments)

    def cached(
        self,
        kind: str,
        build: Callable[..., Tensor],
        tensors: Mapping[str, Tensor],
        arguments: Mapping[str, str | int | float | bool | None],
    ) -> Tensor:
        """Return ``build(**tensors, **arguments)``, from its file if the file exists.

        A damaged file is built again with a warning. If a file cannot be written, the cache logs a warning.

        Args:
            kind: Kind of graph, a word; part of the file's name.
            build: Builder of the graph, a sparse COO tensor, from the given tensors and arguments only.
            tensors: Inputs of the graph, at least one.
            arguments: The builder's options.

        Returns:
            Coalesced sparse COO tensor on the device of the first of ``tensors``.
        """
        request = GraphRequest(kind, build, tensors, arguments)
        self.requests.append(request)
        return self._graph(request)

    def again(self, request: GraphRequest) -> Tensor:
        """Return the graph of an earlier request, from its file or built again."""
        return self._graph(request)

    def _graph(self, request: GraphRequest) -> Tensor:
        kind, build, tensors, arguments = request
        if self.folder is None:
            return build(**tensors, **arguments)
        path = self.folder / f"{kind}-{_digest(kind, tensors, arguments)[:32]}{SUFFIX}"
        stored = _stored(path)
        if stored is not None:
            return stored.to(next(iter(tensors.values())).device)
        graph = build(**tensors, **arguments).coalesce()
        try:
            _write(path, graph)
        except (OSError, SafetensorError) as error:
            reason = getattr(error, "strerror", None) or error
            logger.warning("%s: not written (%s); name another folder by cache_dir", path, reason)
        return graph

    def entries(self) -> Iterator[Entry]:
        """Yield the files of the cache in the order of their names.

        Raises:
            UserError: If the cache is switched off.
        """
        if self.folder is None:
            raise UserError("command line: --cache_dir=none stores no graphs; name a folder")
        for path in sorted(self.folder.glob(f"*-*{SUFFIX}")):
            if path.name.startswith("."):
                continue  # being written
            shape, n_edges = (), 0
            try:
                with safe_open(path, "pt") as file:
                    shape = tuple(json.loads(file.metadata()["shape"]))
                    n_edges = file.get_slice("values").get_shape()[0]
            except (OSError, *_DAMAGED):
                pass  # listed without shape; the next run that uses the file reports and rebuilds it
            try:
                n_bytes = path.stat().st_size
            except FileNotFoundError:
                continue  # another process has deleted the file
            yield Entry(path.name.rpartition("-")[0], shape, n_edges, n_bytes, path)

    def report(self) -> Iterator[str]:
        """Yield a line for each graph, then a line for all graphs."""
        total = count = 0
        for entry in self.entries():
            shape = "x".join(map(str, entry.shape)) or "damaged"
            size = f"{entry.n_edges:11,} edges {_size(entry.n_bytes)}"
            yield f"{entry.kind:15} {shape:>19} {size}  {entry.path.name}"
            total, count = total + entry.n_bytes, count + 1
        yield f"{count} graphs, {_size(total).strip()}, in {self.folder}"

    def clear(self) -> str:
        """Delete every graph; return one line with the number of deleted graphs."""
        entries = list(self.entries())
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        freed = _size(sum(entry.n_bytes for entry in entries)).strip()
        return f"{len(entries)} graphs deleted, {freed}, in {self.folder}"


def _user_folder() -> Path:
    """Return the user's folder for caches by the conventions of the system."""
    if named := os.environ.get("XDG_CACHE_HOME"):
        return Path(named) / "recbole_siger"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "recbole_siger"
    return Path.home() / ".cache" / "recbole_siger"


@cache
def _code_version() -> str:
    """Digest the sources of the builders."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _digest(kind: str, tensors: Mapping[str, Tensor], arguments: Mapping[str, object]) -> str:
    content = {name: [str(x.dtype), list(x.shape), _checksum(x)] for name, x in tensors.items()}
    inputs = {"kind": kind, "arguments": dict(arguments), "tensors": content, "code": _code_version()}
    return canonical_digest(inputs, digits=64)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def _checksum(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(_bytes(tensor))
    return digest.hexdigest()


def _write(path: Path, graph: Tensor) -> None:
    index, value = graph.indices().cpu().int().contiguous(), graph.values().cpu()
    metadata = {"shape": json.dumps(list(graph.shape)), "sha256": _checksum(index, value)}
    delete_leftovers(path.parent, min_age=_MAX_AGE)
    write_tensor_file(path, {"indices": index, "values": value}, metadata)


def _stored(path: Path) -> Tensor | None:
    """Return the graph of a file; None, with a warning for a damaged file, if there is none."""
    try:
        return _read(path) if path.is_file() else None
    except (OSError, *_DAMAGED) as error:
        logger.warning("%s: damaged (%s); the graph is built again", path, str(error).splitlines()[:1])
        return None


def _read(path: Path) -> Tensor:
    with safe_open(path, "pt") as file:
        metadata, index, value = file.metadata(), file.get_tensor("indices"), file.get_tensor("values")
    if metadata["sha256"] != _checksum(index, value):
        raise ValueError("the checksum does not match")
    shape = tuple(json.loads(metadata["shape"]))
    try:
        return torch.sparse_coo_tensor(
            index.long(), value, shape, is_coalesced=True, check_invariants=True
        ).coalesce()
    except RuntimeError as error:  # torch 2.6, for an index outside the shape; newer ones raise ValueError
        raise ValueError(str(error)) from None


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:8.1f} MiB"
