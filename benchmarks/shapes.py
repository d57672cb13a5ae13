"""The data for measuring speed: real interactions of Amazon sets, random features of the same widths.

The time of a step depends on the sizes and on the co-occurrences of items, not on the values of features.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import write_records

__all__ = ["SHAPES", "Shape", "measure_shapes", "shape_parser", "write_dataset"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a dataset's training part, without padding; features are 4096 and 384 wide."""

    n_users: int
    n_items: int
    n_train: int


SHAPES = {
    "baby": Shape(19_445, 7_050, 118_551),
    "sports": Shape(35_598, 18_357, 218_409),
    "clothing": Shape(39_387, 23_033, 197_338),
    "tiny": Shape(499, 293, 3_989),  # for a rehearsal, not for a number
}
WIDTHS = {"image": 4096, "text": 384}


def shape_parser(doc: str | None, shapes: list[str]) -> argparse.ArgumentParser:
    """Make a parser with the common options of the benchmarks on these shapes."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_path", type=Path, help="folder of imported datasets; by default drawn data")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=shapes)
    parser.add_argument("--quick", action="store_true", help="a small part of Baby only")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    return parser


def measure_shapes(
    shapes: Iterable[str],
    options: argparse.Namespace,
    measure: Callable[[Path, str], list[dict[str, Any]]],
) -> None:
    """Write the dataset of each shape, measure, and append the records to a file.

    Args:
        shapes: Names of shapes.
        options: Of :func:`shape_parser`: the keys ``data_path`` and ``out`` are read.
        measure: Takes the folder of the dataset and the name of the shape; returns the records.
    """
    for shape in shapes:
        with tempfile.TemporaryDirectory() as folder:
            real = write_dataset(Path(folder), shape, options.data_path)
            records = measure(Path(folder), shape)
        interactions = "real" if real else "drawn"
        write_records(options.out, [{**record, "interactions": interactions} for record in records])


def write_dataset(folder: Path, name: str, data_path: Path | None, *, features: bool = True) -> bool:
    """Write ``<folder>/<name>`` in the format of the package.

    Args:
        folder: Where to write.
        name: Key of :data:`SHAPES`.
        data_path: Folder of ``<name>`` as `import-mmrec` writes it. Without it, or without the dataset,
            interactions are drawn with a power law of popularity.
        features: Whether to draw features.

    Returns:
        Whether the interactions are real.
    """
    target, rng = folder / name, np.random.default_rng(0)
    target.mkdir(parents=True)
    source = data_path and data_path / name
    real = bool(source and (source / f"{name}.train.inter").is_file())
    if real and source:
        for split in ("train", "valid", "test"):
            shutil.copyfile(source / f"{name}.{split}.inter", target / f"{name}.{split}.inter")
        lines = (
            line for split in ("train", "valid", "test") for line in (target / f"{name}.{split}.inter").open()
        )
        items = sorted({line.split("\t")[1].strip() for line in lines} - {"item_id:token"})
    else:
        items = _draw_interactions(target, name, SHAPES[name], rng)
    widths = WIDTHS if features else {}
    for modality, width in widths.items():
        np.save(target / f"{name}.{modality}.npy", rng.standard_normal((len(items), width), dtype=np.float32))
        (target / f"{name}.{modality}.ids").write_text(
            "".join(f"{item}\n" for item in items), encoding="utf-8"
        )
    (target / f"{name}.yaml").write_text(
        "benchmark_filename: [train, valid, test]\nload_col:\n  inter: [user_id, item_id]\n"
        f"protocol: mmrec\nfeatures: [{', '.join(widths)}]\n",
        encoding="utf-8",
    )
    return real


def _draw_interactions(target: Path, name: str, shape: Shape, rng: np.random.Generator) -> list[str]:
    """Draw the three splits; every user and item occurs in training."""
    popularity = rng.permutation(1 / np.arange(1, shape.n_items + 1) ** 0.7)
    for split, n_rows in (("train", shape.n_train), ("valid", shape.n_users), ("test", shape.n_users)):
        users = np.resize(np.arange(shape.n_users), n_rows)
        items = rng.choice(shape.n_items, n_rows, p=popularity / popularity.sum())
        if split == "train":
            items[: shape.n_items] = np.arange(shape.n_items)
        pairs = np.unique(np.stack([users, items], axis=1), axis=0)
        with (target / f"{name}.{split}.inter").open("w", encoding="utf-8") as stream:
            stream.write("user_id:token\titem_id:token\n")
            stream.writelines(f"{user}\t{item}\n" for user, item in pairs.tolist())
    return [str(item) for item in range(shape.n_items)]
