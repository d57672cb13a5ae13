"""Embeddings and nearest-neighbour indexes for other programs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors.numpy import save

from recbole_siger.common.files import atomic_path, check_output, delete_leftovers
from recbole_siger.common.locks import LOCK, locked
from recbole_siger.errors import UserError
from recbole_siger.recommend.recommender import Recommender

__all__ = ["FORMATS", "export"]

Tables = Mapping[str, NDArray[np.float32]]

HNSW_LINKS = 32
_NEEDS = {"parquet": ("pyarrow", "pyarrow"), "faiss": ("faiss", "faiss-cpu"), "hnsw": ("faiss", "faiss-cpu")}


def export(recommender: Recommender, kind: str, out: str | Path) -> list[Path]:
    """Write the final embeddings into a new folder, with the raw id of each row.

    ``users.txt`` and ``items.txt`` name the id of row i in line i. The padding rows are left out. The score
    of a user and an item is the inner product of their rows.

    Args:
        recommender: The run.
        kind: ``npy``, ``safetensors`` or ``parquet`` for the tables; ``faiss`` for an exact index of the
            items by inner product; ``hnsw`` for a fast approximate index of the items (faiss).
        out: The folder, which must not exist.

    Returns:
        The files.

    Raises:
        UserError: If the model has no embeddings, the folder exists or another process writes it, the format
            is unknown, or a package is missing.
    """
    out = Path(out)
    if kind not in FORMATS:
        raise UserError(f"format={kind!r}: expected one of {', '.join(FORMATS)}")
    _refuse_existing(out)
    check_output(out)
    if kind in _NEEDS and importlib.util.find_spec(_NEEDS[kind][0]) is None:
        raise UserError(f"format={kind} needs {_NEEDS[kind][1]}; run `pip install {_NEEDS[kind][1]}`")
    found = recommender.embeddings()
    tables = {"users": found.user.numpy(), "items": found.item.numpy()}
    ids = {"users": found.users, "items": found.items}
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another process writes this folder; wait until the process ends, or choose another --out"
    with locked(out.with_name(f".{out.name}{LOCK}"), busy):
        _refuse_existing(out)  # again: another process may have written the folder
        delete_leftovers(out.parent, out.name)
        with atomic_path(out) as folder:
            folder.mkdir()
            for name, tokens in ids.items():
                (folder / f"{name}.txt").write_text("".join(f"{t}\n" for t in tokens), encoding="utf-8")
            FORMATS[kind](folder, tables, ids)
    return sorted(out.iterdir())


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out}: exists already; choose another folder")


def _npy(folder: Path, tables: Tables, ids: Mapping[str, list[str]]) -> None:
    for name, table in tables.items():
        np.save(folder / f"{name}.npy", table, allow_pickle=False)


def _safetensors(folder: Path, tables: Tables, ids: Mapping[str, list[str]]) -> None:
    whole = {name: np.ascontiguousarray(table) for name, table in tables.items()}
    (folder / "embeddings.safetensors").write_bytes(save(whole))


def _parquet(folder: Path, tables: Tables, ids: Mapping[str, list[str]]) -> None:
    for name, table in tables.items():
        frame = pd.DataFrame({"id": ids[name], "embedding": list(table)})
        frame.to_parquet(folder / f"{name}.parquet", index=False)


def _faiss(folder: Path, tables: Tables, ids: Mapping[str, list[str]]) -> None:
    import faiss

    _write_index(folder, faiss.IndexFlatIP(tables["items"].shape[1]), tables)


def _hnsw(folder: Path, tables: Tables, ids: Mapping[str, list[str]]) -> None:
    import faiss

    width = tables["items"].shape[1]
    _write_index(folder, faiss.IndexHNSWFlat(width, HNSW_LINKS, faiss.METRIC_INNER_PRODUCT), tables)


def _write_index(folder: Path, index: Any, tables: Tables) -> None:
    import faiss

    index.add(np.ascontiguousarray(tables["items"]))
    faiss.write_index(index, str(folder / "items.faiss"))
    np.save(folder / "users.npy", tables["users"], allow_pickle=False)  # the queries


FORMATS: dict[str, Callable[[Path, Tables, Mapping[str, list[str]]], None]] = {
    "npy": _npy,
    "safetensors": _safetensors,
    "parquet": _parquet,
    "faiss": _faiss,
    "hnsw": _hnsw,
}
"""Writer of each format."""
