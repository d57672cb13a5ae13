"""The files of an extracted modality: rows, ids, what is missing, and the manifest."""

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
    """Name the files of a modality by their endings; the one of the rows, ``npy``, is written last."""
    endings = ("npy", "ids", "json", "missing.csv")
    return {ending: folder / f"{dataset}.{modality}.{ending}" for ending in endings}


def write_modality(
    files: dict[str, Path], store: ShardStore, dim: int, manifest: dict[str, Any]
) -> dict[str, Any]:
    """Write the files of a modality from its shards; rows are never all held.

    The rows appear last: while there is no ``.npy``, the modality is not there. An old one is removed first,
    so that no ids stand beside rows of another extraction.

    Args:
        files: Of :func:`modality_files`.
        store: Every shard.
        dim: Width of a row.
        manifest: What is told besides counts and checksums.

    Returns:
        The manifest as written.

    Raises:
        UserError: If no item has a row; nothing is written then.
    """
    ids, missing, digest = [], [], hashlib.sha256()
    for shard in store:
        ids += shard.ids
        missing += shard.missing
        digest.update(bytes.fromhex(shard.digest))
    if not ids:
        store.discard()  # nothing in it is of use
        reason = missing[0][1] if missing else "none"
        raise UserError(f"{files['npy'].name}: no item has a row (the first: {reason}); check the input.")
    files["npy"].unlink(missing_ok=True)
    with atomic_path(files["npy"]) as temporary:
        _write_rows(temporary, store, (len(ids), dim))
        write_text(files["ids"], "".join(f"{item}\n" for item in ids))
        write_text(files["missing.csv"], _missing_table(missing))
        written = manifest | {
            "counts": {"items": len(ids) + len(missing), "rows": len(ids), "missing": len(missing)},
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


def _missing_table(missing: list[tuple[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["item_id", "reason"])
    writer.writerows(missing)
    return text.getvalue()
