"""Import of datasets in MMRec's layout: one ``.inter`` file with its split, ``*_feat.npy`` by item number."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_siger.common.files import real_path
from recbole_siger.data.features import coverage_text, open_features, read_blocks
from recbole_siger.data.names import name_problem
from recbole_siger.errors import UserError
from recbole_siger.prepare.folder import (
    SPLITS,
    check_target,
    dataset_yaml,
    new_dataset,
    report_dataset,
    write_interactions,
)
from recbole_siger.prepare.manifest import (
    PUBLISHED,
    Counts,
    compare_published,
    describe_inputs,
    manifest_text,
)

__all__ = ["import_mmrec"]

COLUMNS = {
    "userID": "user_id:token",
    "itemID": "item_id:token",
    "rating": "rating:float",
    "timestamp": "timestamp:float",
}
"""MMRec's column -> the column of RecBole's atomic file."""

PROTOCOL = ("protocol: mmrec", "(str) Only training items are masked; users without one are not evaluated.")


@dataclass(frozen=True)
class _Modality:
    path: Path
    rows: int
    dim: int
    dtype: str
    missing: int

    def facts(self) -> dict[str, Any]:
        """Return the manifest's facts; the path is omitted because it belongs to this machine."""
        return {"rows": self.rows, "dim": self.dim, "dtype": self.dtype, "missing": self.missing}


def import_mmrec(
    source: Path,
    name: str,
    *,
    data_path: Path,
    features: Mapping[str, Path],
    user_features: Mapping[str, Path] | None = None,
    overwrite: bool = False,
    report: Callable[[str], None],
) -> Path:
    """Turn a dataset in MMRec's layout into RecBole's atomic files, feature files and a manifest.

    All input is checked before any file is written. The folder appears complete or not at all.

    Args:
        source: Folder with one ``*.inter`` (tab separated: userID, itemID, x_label, optionally rating and
            timestamp) and any number of ``<modality>_feat.npy``, whose row i belongs to itemID i.
        name: Name of the dataset to write.
        data_path: RecBole's folder of datasets; ``<data_path>/<name>`` is written.
        features: Modality -> feature file, in addition to the files found in ``source``. A relative path is
            searched in ``source``, then in the working folder.
        user_features: Name -> file of user features, whose row i belongs to userID i.
        overwrite: Whether to replace an existing dataset folder.
        report: Called with each line for the user.

    Returns:
        The folder ``<data_path>/<name>``.

    Raises:
        UserError: If the source has another format, a value is out of range, or the folder exists.
    """
    source = Path(source)
    named = [*features.values(), *(user_features or {}).values()]
    inputs = (source, *named, *(source / path for path in named))
    target = check_target(name, Path(data_path), inputs, overwrite=overwrite)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; name the folder that contains MMRec's .inter file.")
    inter_path = _find_inter(source)
    inter = _read_inter(inter_path, report)
    counts = _count(inter_path, inter)
    modalities = _read_modalities(source, features, {*(user_features or {}).values()}, inter, report)
    of_users = _read_user_features(source, user_features or {}, inter, modalities)
    known = next((key for key in (name.lower(), inter_path.stem.lower()) if key in PUBLISHED), None)
    published = compare_published(known, counts)
    facts = {name: one.facts() for name, one in modalities.items()}
    user_facts = {name: one.facts() for name, one in of_users.items()}
    files = [inter_path, *(one.path for one in [*modalities.values(), *of_users.values()])]
    with new_dataset(target, overwrite=overwrite) as folder:
        _write_inter(folder / name, inter)
        _write_features(folder / name, {**modalities, **of_users})
        origin = "imported from MMRec's layout"
        settings = dataset_yaml(name, origin, list(modalities), [PROTOCOL], list(of_users))
        (folder / f"{name}.yaml").write_text(settings, encoding="utf-8")
        manifest = {
            "name": name,
            "format": 1,
            "inputs": describe_inputs(source, files),
            "counts": asdict(counts),
            "sparsity": counts.sparsity,
            "features": facts,
            **({"user_features": user_facts} if user_facts else {}),
            "published": published,
        }
        (folder / "manifest.json").write_text(manifest_text(manifest), encoding="utf-8")
    for user_name, one in of_users.items():
        report(coverage_text(user_name, one.rows - one.missing, one.rows, one.dim, noun="user"))
    coverage = {
        modality: coverage_text(modality, one.rows - one.missing, one.rows, one.dim)
        for modality, one in modalities.items()
    }
    report_dataset(report, name, target, counts, coverage, published)
    return target


def _find_inter(source: Path) -> Path:
    found = sorted(path for path in source.glob("*.inter") if path.is_file())
    if not found:
        raise UserError(f"{source}: has no .inter file; put the interaction file there.")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{source}: has {len(found)} .inter files ({names}); keep the file to import.")
    return found[0]


def _read_inter(path: Path, report: Callable[[str], None]) -> pd.DataFrame:
    """Read and check the interactions; the columns are ``x_label`` and the existing ones of ``COLUMNS``.

    Ratings and timestamps remain text, so that they are written as they were read.
    """
    text = _read_table(path)
    for column in ("userID", "itemID", "x_label"):
        if column not in text.columns:
            raise UserError(
                f"{path}: column {column!r} is missing (it has {', '.join(map(str, text.columns))}); "
                "the header must name userID, itemID and x_label, separated by tabs."
            )
    known = [column for column in text.columns if column in COLUMNS or column == "x_label"]
    ignored = [str(column) for column in text.columns if column not in known]
    if ignored:
        report(f"note: {path.name}: columns ignored: {', '.join(ignored)}")
    inter = text[known].copy()
    for column in known:
        if column in ("userID", "itemID"):
            # 18 digits always fit int64.
            _check_column(
                path, text, column, r"[0-9]{1,18}", "an integer >= 0; number users and items from 0"
            )
            inter[column] = inter[column].astype("int64")
        elif column == "x_label":
            _check_column(path, text, column, r"[012]", "0 (train), 1 (valid) or 2 (test)")
            inter[column] = inter[column].astype("int8")
        else:
            number = r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,2})?"
            _check_column(path, text, column, number, "a finite number; fix or remove the line")
    repeated = int(inter.duplicated(["userID", "itemID"]).sum())
    if repeated:
        report(f"note: {path.name}: {repeated:,} rows repeat a user-item pair; all rows are kept")
    return inter


def _read_table(path: Path) -> pd.DataFrame:
    """Read a tab separated file as text, indexed by line number in the file, without empty lines."""
    try:
        table = pd.read_csv(
            path,
            sep="\t",
            dtype=str,
            keep_default_na=False,
            quoting=3,  # csv.QUOTE_NONE: a quotation mark is a character like any other
            skip_blank_lines=False,  # the index must equal the line number
            encoding="utf-8-sig",
        )
    except (ValueError, pd.errors.ParserError) as error:  # includes UnicodeDecodeError and EmptyDataError
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: is not a tab separated UTF-8 table ({reason}); fix the file.") from error
    if not isinstance(table.index, pd.RangeIndex):  # pandas uses a surplus first column as the index
        raise UserError(f"{path}: rows have more values than the header has names; fix the header.")
    table = table.fillna("")
    table.index = pd.RangeIndex(2, len(table) + 2)
    return table[(table != "").any(axis=1)]


def _check_column(path: Path, text: pd.DataFrame, column: str, pattern: str, must_be: str) -> None:
    wrong = text.index[~text[column].str.fullmatch(pattern)]
    if len(wrong):
        value = text.loc[wrong[0], column]
        raise UserError(f"{path}: line {wrong[0]:,}: {column} is {value!r}; it must be {must_be}.")


def _count(path: Path, inter: pd.DataFrame) -> Counts:
    sizes = [int((inter["x_label"] == label).sum()) for label in range(len(SPLITS))]
    for label, size in enumerate(sizes):
        if size == 0:
            raise UserError(
                f"{path}: no row has x_label {label} ({SPLITS[label]}); give each split at least one row."
            )
    return Counts(inter["userID"].nunique(), inter["itemID"].nunique(), len(inter), *sizes)


def _read_modalities(
    source: Path,
    features: Mapping[str, Path],
    of_users: set[Path],
    inter: pd.DataFrame,
    report: Callable[[str], None],
) -> dict[str, _Modality]:
    """Find and check the feature files; order: image, text, then the other modalities by name."""
    n_items, n_users = int(inter["itemID"].max()) + 1, int(inter["userID"].max()) + 1
    paths = {path.name.removesuffix("_feat.npy"): path for path in sorted(source.glob("*_feat.npy"))}
    users_files = {real_path(_locate(source, "of users", path)) for path in of_users}
    paths = {name: path for name, path in paths.items() if real_path(path) not in users_files}
    paths.update({modality: _locate(source, modality, Path(path)) for modality, path in features.items()})
    modalities = {}
    for modality in sorted(paths, key=lambda key: (key != "image", key != "text", key)):
        path = paths[modality]
        if problem := name_problem(modality):
            raise UserError(
                f"{path}: modality {modality!r}: {problem} (rename NAME_feat.npy, or write "
                "--feature NAME=FILE)."
            )
        array = open_features(path)
        if len(array) == n_users != n_items and modality not in features:
            report(
                f"note: {path.name}: {n_users:,} rows, the number of users: skipped; import it with "
                "--user_feature NAME=FILE"
            )
            continue
        if len(array) != n_items:
            raise UserError(
                f"{path}: {len(array):,} rows, expected {n_items:,} (the largest itemID + 1); "
                "use the features that belong to this .inter file, row i for itemID i."
            )
        modalities[modality] = _described(path, array)
    taken = {real_path(path) for path in paths.values()} | users_files
    others = [path.name for path in sorted(source.glob("*.npy")) if real_path(path) not in taken]
    if others:
        report(f"note: skipped, because the name has no modality: {', '.join(others)}")
    return modalities


def _described(path: Path, array: NDArray[Any]) -> _Modality:
    """Read all values once, and count the rows of zeros."""
    blocks = read_blocks(path, array, range(len(array)))
    missing = sum(int((block == 0).all(axis=1).sum()) for _, block in blocks)
    return _Modality(path, len(array), array.shape[1], np.dtype(array.dtype).name, missing)


def _read_user_features(
    source: Path, user_features: Mapping[str, Path], inter: pd.DataFrame, taken: Mapping[str, _Modality]
) -> dict[str, _Modality]:
    """Check the files of user features."""
    n_users, found = int(inter["userID"].max()) + 1, {}
    for name, given in user_features.items():
        path = _locate(source, name, Path(given))
        if problem := name_problem(name):
            raise UserError(f"{path}: user feature {name!r}: {problem}")
        if name in taken:
            raise UserError(f"{path}: user feature {name!r} is also a modality of items; choose another name")
        array = open_features(path)
        if len(array) != n_users:
            raise UserError(
                f"{path}: {len(array):,} rows, expected {n_users:,} (the largest userID + 1); row i belongs "
                "to userID i."
            )
        found[name] = _described(path, array)
    return found


def _locate(source: Path, modality: str, path: Path) -> Path:
    for candidate in (source / path, path):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"{path}: no such feature file for modality {modality!r}, neither in {source} nor in the working "
        "folder; correct the path."
    )


def _write_inter(stem: Path, inter: pd.DataFrame) -> None:
    columns = [column for column in COLUMNS if column in inter.columns]
    write_interactions(stem, inter[columns].rename(columns=COLUMNS), inter["x_label"].to_numpy())


def _write_features(stem: Path, modalities: Mapping[str, _Modality]) -> None:
    for modality, one in modalities.items():
        shutil.copyfile(one.path, stem.with_name(f"{stem.name}.{modality}.npy"))
        ids = "".join(f"{row}\n" for row in range(one.rows))
        stem.with_name(f"{stem.name}.{modality}.ids").write_text(ids, encoding="utf-8", newline="")
