"""The files of an extracted modality: rows, ids, list of missing items or users, and the manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from recbole_siger.common.files import atomic_path, sha256, write_text
from recbole_siger.errors import UserError
from recbole_siger.extract.shards import ShardStore

__all__ = ["modality_files", "write_modality"]


def modality_files(folder: Path, dataset: str, modality: str) -> dict[str, Path]:
    """Return the files of a modality by their endings; the rows, ``npy``, are written last."""
    endings = ("npy", "ids", "json", "missing.csv")
    return {ending: folder / f"{dataset}.{modality}.{ending}" for ending in endings}


def write_modality(
    files: dict[str, Path], store: ShardStore, dim: int, manifest: dict[str, Any], noun: str = "item"
) -> dict[str, Any]:
    """Write the files of a modality from its shards; the rows are never all in memory.

    The ``.npy`` is written last, so a modality without ``.npy`` is incomplete. An old ``.npy`` is removed
    first, so that ids and rows never come from two extractions.

    Args:
        files: Result of :func:`modality_files`.
        store: The store with every shard.
        dim: Width of a row.
        manifest: Facts besides counts and checksums.
        noun: What a row belongs to: ``item`` or ``user``.

    Returns:
        The manifest as written.

    Raises:
        UserError: If nothing has a row; then nothing is written.
    """
    ids, missing, digest = [], [], hashlib.sha256()
    for shard in store:
        ids += shard.ids
        missing += shard.missing
        digest.update(bytes.fromhex(shard.digest))
    if not ids:
        store.discard()  # the shards are useless
        reason = missing[0][1] if missing else "none"
        raise UserError(f"{files['npy'].name}: no {noun} has a row (the first: {reason}); check the input.")
    store.begin_writing()
    files["npy"].unlink(missing_ok=True)
    with atomic_path(files["npy"]) as temporary:
        _write_rows(temporary, store, (len(ids), dim))
        write_text(files["ids"], "".join(f"{item}\n" for item in ids))
        write_text(files["missing.csv"], _missing_table(missing, noun))
        written = manifest | {
            "counts": {f"{noun}s": len(ids) + len(missing), "rows": len(ids), "missing": len(missing)},
            "shape": [len(ids), dim],
            "dtype": "float32",
            "inputs_sha256": digest.hexdigest(),
            "files": {files["npy"].name: sha256(temporary), files["ids"].name: sha256(files["ids"])},
        }
        write_text(files["json"], json.dumps(written, indent=2, ensure_ascii=False) + "\n")
    return written


def _write_rows(path: Path, store: ShardStore, shape: tuple[int, int]) -> None:
    rows = np.lib.format.open_memmap(path, "w+", dtype=np.float32, shape=shape)
    start = 0
    for shard in store:
        rows[start : start + len(shard.ids)] = shard.rows
        start += len(shard.ids)
    rows.flush()


def _missing_table(missing: list[tuple[str, str]], noun: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([f"{noun}_id", "reason"])
    writer.writerows(missing)
    return text.getvalue()
