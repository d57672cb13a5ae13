"""The folder of a dataset: target path, interaction files, YAML, and the final report."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from recbole_siger.common.files import atomic_path, delete_leftovers
from recbole_siger.common.locks import LOCK, locked
from recbole_siger.errors import UserError
from recbole_siger.options.names import check_dataset_name
from recbole_siger.prepare.manifest import Counts, published_line

__all__ = ["SPLITS", "check_target", "dataset_yaml", "new_dataset", "report_dataset", "write_interactions"]

SPLITS = ("train", "valid", "test")
"""The meaning of the labels 0, 1 and 2."""


def check_target(name: str, data_path: Path, inputs: Iterable[Path], *, overwrite: bool) -> Path:
    """Return ``<data_path>/<name>`` after checking that the folder may be written.

    Args:
        name: Name of the dataset.
        data_path: RecBole's folder of datasets.
        inputs: Files and folders to read; none may lie inside the target.
        overwrite: Whether an existing folder may be replaced.

    Raises:
        UserError: If the name is invalid, or the target exists, is no folder or no dataset, or contains an
            input, or features or answers that other commands have written.
    """
    target = data_path / check_dataset_name(name, "command line", "name")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise UserError(f"{target}: is not a plain folder; move it, or choose another name.")
    if target.exists() and not overwrite:
        raise UserError(f"{target}: exists already; choose another name, or replace it with --overwrite.")
    # Replacing a folder deletes everything in the folder, so no input may lie inside.
    for path in inputs:
        if Path(os.path.realpath(path)).is_relative_to(os.path.realpath(target)):  # accepts a loop of links
            raise UserError(f"{target}: contains the input {path}; choose another name or data_path.")
    if target.exists() and not _is_dataset(target):
        raise UserError(
            f"{target}: is not a dataset (no manifest, no .inter file), so --overwrite does not replace it; "
            "move the folder away, or choose another name."
        )
    if target.exists() and (later := _later_work(target)):
        raise UserError(
            f"{target}: --overwrite would delete what `extract` and `profiles` have written "
            f"({', '.join(later[:3])}{', …' if len(later) > 3 else ''}); move these files away, or delete "
            "the folder."
        )
    return target


def _is_dataset(folder: Path) -> bool:
    """Return whether a folder is empty, or has a manifest or an interaction file of its own name."""
    names = [path.name for path in folder.iterdir()]
    own = (f"{folder.name}.inter", *(f"{folder.name}.{split}.inter" for split in SPLITS))
    return not names or bool({"manifest.json", f"{folder.name}.manifest.json", *own} & {*names})


def _later_work(folder: Path) -> list[str]:
    """Return the features, unfinished features and answers that a dataset has got later, as patterns."""
    found = []
    for start, end in (("", "missing.csv"), (".", "shards"), ("", "answers.jsonl")):
        paths = sorted(folder.glob(f"{start}{folder.name}.*.{end}"))
        found += [f"{path.name.removesuffix(end)}*" for path in paths]
    return found


@contextmanager
def new_dataset(target: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a folder to fill, which becomes the folder of a dataset when the block succeeds.

    Only one process at a time writes a dataset. Temporary folders of killed processes are deleted.

    Args:
        target: From :func:`check_target`.
        overwrite: Whether a dataset that is there now may be replaced.

    Raises:
        UserError: If another process writes the dataset, or has written it since the check.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{target}: another process writes this dataset; wait until the process ends."
    with locked(target.with_name(f".{target.name}{LOCK}"), busy):
        delete_leftovers(target.parent, target.name)
        check_target(target.name, target.parent, [], overwrite=overwrite)
        with atomic_path(target) as folder:
            folder.mkdir()
            yield folder
            check_target(target.name, target.parent, [], overwrite=overwrite)


def write_interactions(stem: Path, rows: pd.DataFrame, labels: NDArray[np.integer]) -> None:
    """Write ``<stem>.train.inter``, ``.valid.inter`` and ``.test.inter``; the order of rows is kept.

    Args:
        stem: ``<folder>/<name>``.
        rows: One row for each interaction, columns named as in an atomic file (``user_id:token``, ...).
        labels: 0, 1 or 2 for each row, shape ``(E,)``.
    """
    for label, split in enumerate(SPLITS):
        path = stem.with_name(f"{stem.name}.{split}.inter")
        rows[labels == label].to_csv(path, sep="\t", index=False, lineterminator="\n")


def dataset_yaml(
    name: str,
    origin: str,
    modalities: Sequence[str],
    facts: Sequence[tuple[str, str]] = (),
    user_features: Sequence[str] = (),
) -> str:
    """Return the dataset's part of the configuration, as YAML.

    Args:
        name: Name of the dataset.
        origin: Text after the name in the first line.
        modalities: Modalities with features.
        facts: Further settings, each with type and meaning.
        user_features: Features of users.
    """
    settings = [
        ("benchmark_filename: [train, valid, test]", "(list) The given split, one file for each part."),
        ("load_col:", "(dict) The suffix of atomic files: (list) field names to be loaded."),
        ("  inter: [user_id, item_id]", ""),
        *facts,
    ]
    for key, listed, noun in (
        ("features", modalities, "modality"),
        ("user_features", user_features, "name"),
    ):
        # Quotes for names that YAML would read as another type, such as "no" or "3".
        names = [one if yaml.safe_load(one) == one else json.dumps(one) for one in listed]
        what = "Modalities" if key == "features" else "Features of users"
        if names:
            files = f"(list) {what} to load, each from {name}.<{noun}>.npy and .ids."
            settings.append((f"{key}: [{', '.join(names)}]", files))
    width = max(len(setting) for setting, _ in settings)
    lines = [f"{setting:<{width}}  # {meaning}" if meaning else setting for setting, meaning in settings]
    return "\n".join([f"# {name}, {origin}", *lines, ""])


def report_dataset(
    report: Callable[[str], None],
    name: str,
    target: Path,
    counts: Counts,
    coverage: Mapping[str, str],
    published: Mapping[str, Any] | None,
) -> None:
    """Report what was written, and the next command.

    Args:
        report: Called with each line.
        name: Name of the dataset.
        target: Its folder.
        counts: Sizes of the dataset.
        coverage: Modality -> a line with the number of items that have the modality.
        published: Result of ``compare_published``.
    """
    report(counts.line(name))
    for line in coverage.values():
        report(line)
    if published is not None:
        report(published_line(published))
    if not coverage:
        report("note: no features; a multimodal model requires at least one modality")
    report(f"written to {target}")
    # Name a model that can run: a multimodal model cannot run without features.
    model = "SIGER" if coverage else "LightGCN"
    elsewhere = "" if target.parent == Path("dataset") else f" --data_path={shlex.quote(str(target.parent))}"
    report(f"next: recbole-siger run --model={model} --dataset={name}{elsewhere}")
