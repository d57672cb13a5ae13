"""Item features for RecBole's embedded ml-100k, from titles, years and genres.

``ml-100k.text.npy`` has TF-IDF reduced by a truncated SVD, ``ml-100k.genre.npy`` one column for each genre.
Both have ``.ids``. ``ml-100k.manifest.json`` describes both. The interactions remain in RecBole's folder.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_siger.common.files import write_array, write_text
from recbole_siger.common.tfidf import TextVectors
from recbole_siger.errors import UserError
from recbole_siger.prepare.manifest import describe_inputs, manifest_text

__all__ = ["embedded_dir", "main", "prepare"]

COLUMNS = ("item_id", "movie_title", "release_year", "class")


def prepare(atomic_dir: Path, output_dir: Path, name: str = "ml-100k", *, text_dim: int = 128) -> None:
    """Write text and genre features of a MovieLens dataset, and a manifest that describes them.

    Equal input and equal versions of the libraries give equal files, on any number of threads.

    Args:
        atomic_dir: Folder with ``<name>.item``, a RecBole atomic file.
        output_dir: Folder for ``<name>.text.npy``, ``<name>.genre.npy``, their ``.ids`` and the manifest.
        name: Name of the dataset.
        text_dim: Dimensions of the text features, from 1 to less than the number of items and of terms.

    Raises:
        UserError: If the ``.item`` file is missing or has other columns or repeated ids, or if ``text_dim``
            is out of range.
    """
    source = Path(atomic_dir) / f"{name}.item"
    items = _read_items(source)
    genre, genres = _encode_genres(items["class"].tolist())
    features = {"text": _encode_text(items, text_dim), "genre": genre}
    stem = Path(output_dir) / name
    for modality, array in features.items():
        write_array(stem.with_name(f"{name}.{modality}.npy"), array)
        write_text(
            stem.with_name(f"{name}.{modality}.ids"), "".join(f"{item}\n" for item in items["item_id"])
        )
    manifest = {
        "name": name,
        "format": 1,
        "inputs": describe_inputs(source.parent, [source]),
        "items": len(items),
        "features": {
            modality: {"dim": array.shape[1], "dtype": array.dtype.name}
            for modality, array in features.items()
        },
        "genres": genres,
        "scikit-learn": version("scikit-learn"),
    }
    write_text(stem.with_name(f"{name}.manifest.json"), manifest_text(manifest))


def _read_items(path: Path) -> pd.DataFrame:
    """Read the atomic file as text; column names lose their ``:type``."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; name the folder that contains it with --atomic_dir.")
    try:
        items = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False, quoting=3, encoding="utf-8")
    except (ValueError, pd.errors.ParserError) as error:  # UnicodeDecodeError and EmptyDataError among them
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: is not a tab separated UTF-8 table ({reason}); correct the file."
        ) from error
    items.columns = [str(column).partition(":")[0] for column in items.columns]
    for column in COLUMNS:
        if column not in items.columns:
            raise UserError(
                f"{path}: column {column!r} is missing; the header must name {', '.join(COLUMNS)}."
            )
    repeated = items.loc[items["item_id"].duplicated(), "item_id"]
    if len(repeated):
        raise UserError(f"{path}: item_id {repeated.iloc[0]!r} is repeated; keep one line for each item.")
    return items


def _encode_text(items: pd.DataFrame, text_dim: int) -> NDArray[np.float32]:
    """Return the vectors of "title year genres": unit-length rows, shape ``(I, text_dim)``."""
    texts = (items["movie_title"] + " " + items["release_year"] + " " + items["class"]).tolist()
    return TextVectors(texts, text_dim, option="text_dim", source="movie_title").encode(texts)


def _encode_genres(classes: Sequence[str]) -> tuple[NDArray[np.float32], list[str]]:
    """Return one column of 0 or 1 for each genre, shape ``(I, G)``, and the genres in column order."""
    genres = sorted({genre for line in classes for genre in line.split()})
    column = {genre: index for index, genre in enumerate(genres)}
    encoded = np.zeros((len(classes), len(genres)), dtype=np.float32)
    for row, line in enumerate(classes):
        encoded[row, [column[genre] for genre in line.split()]] = 1.0
    return encoded, genres


def embedded_dir(name: str) -> Path:
    """Return the folder of the datasets that RecBole ships, without importing RecBole."""
    spec: Any = importlib.util.find_spec("recbole")
    if spec is None:
        raise UserError("recbole is not installed; install it, or name the folder with --atomic_dir.")
    return Path(spec.submodule_search_locations[0]) / "dataset_example" / name


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``dataset_scripts/ml_100k.py``; return the exit status."""
    parser = argparse.ArgumentParser(description="Make item features for RecBole's embedded ml-100k.")
    parser.add_argument("--output", type=Path, default=Path("dataset/ml-100k"), help="folder to write")
    parser.add_argument("--atomic_dir", type=Path, help="folder with ml-100k.item (default: RecBole's own)")
    options = parser.parse_args(arguments)
    try:
        prepare(options.atomic_dir or embedded_dir("ml-100k"), options.output)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(f"written to {options.output}")
    return 0
