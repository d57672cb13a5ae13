"""Commands about data and this installation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from recbole_siger.cli.command import Command, Opt, option, options_of
from recbole_siger.cli.common import dataset, given
from recbole_siger.cli.declared import option_rows, read_dataclass, shipped_files
from recbole_siger.common.files import check_output
from recbole_siger.common.terminal import print_line
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["COMMANDS"]

KINDS = ("amazon", "microlens", "movielens", "csv")
EDITION = (
    "amazon: 2014 (default), 2018 or 2023; microlens: 50k or 100k, movielens: ml-100k, ml-1m, ..., "
    "both needed with --download only."
)


def _from_files(command: str, module: str, cls: str) -> list[Opt]:
    """Return the options of a command: types from its dataclass, defaults and meanings from its YAML file."""
    return options_of(option_rows(shipped_files(f"{command}.yaml"), read_dataclass(module, cls)))


# ---- prepare


def prepare_command() -> Command:
    """Return the command ``prepare``."""
    raw = "amazon, microlens, movielens: "
    files = [f"prepare/{kind}.yaml" for kind in KINDS]
    own = options_of([row for file in files for row in option_rows(shipped_files(file), {})])
    return Command(
        "prepare",
        _prepare,
        [
            click.Argument(["kind"]),
            option("name", "Name of the dataset to write. Needed.", metavar="NAME"),
            *_from_files("prepare", "prepare.pipeline", "PrepareParams"),
            option("overwrite", "Whether a dataset of that name is replaced.", kind="bool", default="False"),
            option("source", f"{raw}folder of the raw files. Needed.", metavar="FOLDER"),
            option("category", "amazon: category such as Baby. Needed.", metavar="NAME"),
            option("edition", EDITION, metavar="NAME"),
            option("download", f"{raw}whether files that the folder lacks are fetched.", kind="bool"),
            option("mirror", f"{raw}address to fetch the files from instead.", metavar="URL"),
            option("inter", "csv: table of interactions. Needed.", metavar="FILE"),
            option("items", "csv: table of items.", metavar="FILE"),
            option("users", "csv: table of users.", metavar="FILE"),
            *(opt for opt in own if opt.name != "edition"),
            option(
                "rating_col", "csv: column of ratings; by default `rating`, if it exists.", metavar="NAME"
            ),
            option("time_col", "csv: column of times; by default `timestamp`, if it exists.", metavar="NAME"),
            option(
                "sep",
                "csv: separator, such as `,`; by default `tab` for .tsv, .txt and atomic files, else `,`.",
                metavar="TEXT",
            ),
        ],
        usage=f"{'|'.join(KINDS)} --name=NAME [--key=value ...]",
        summary="Turn raw data into a dataset: filtered, split, with the source's item features.",
        example="recbole-siger prepare csv --inter=my.csv --items=items.csv --name=shop --k_core=5",
    )


def _prepare(kind: str, **values: Any) -> None:
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS)
        raise UserError(f"command line: prepare {kind!r}: expected one of {', '.join(KINDS)}{hint}")
    from recbole_siger.prepare.run import prepare

    prepare(kind, {key: str(value) for key, value in given(**values).items()}, report=print_line)


# ---- import-mmrec


def import_mmrec_command() -> Command:
    """Return the command ``import-mmrec``."""
    return Command(
        "import-mmrec",
        _import_mmrec,
        [
            click.Argument(["folder"], metavar="DIR"),
            option("name", "Name of the dataset to write.", metavar="NAME", required=True),
            option(
                "feature",
                "Features in a file whose name is not MODALITY_feat.npy; may be repeated.",
                metavar="MODALITY=FILE",
                repeated=True,
            ),
            option(
                "user_feature",
                "Features of users: row i belongs to userID i; may be repeated.",
                metavar="NAME=FILE",
                repeated=True,
            ),
            option("data_path", "Folder of the datasets.", metavar="FOLDER", default="dataset"),
            option("overwrite", "Whether a dataset of that name is replaced.", kind="bool", default="False"),
        ],
        usage="DIR --name=NAME [--feature MODALITY=FILE ...]",
        summary="Turn a folder in MMRec's layout into a dataset.",
        example="recbole-siger import-mmrec raw/baby --name=baby",
    )


def _import_mmrec(
    folder: str,
    name: str,
    feature: tuple[str, ...],
    user_feature: tuple[str, ...],
    data_path: str | None,
    overwrite: bool | None,
) -> None:
    from recbole_siger.prepare.sources.mmrec import import_mmrec

    import_mmrec(
        Path(folder),
        name,
        data_path=Path(data_path or "dataset"),
        features=_named_files("feature", "MODALITY", feature),
        user_features=_named_files("user_feature", "NAME", user_feature),
        overwrite=bool(overwrite),
        report=print_line,
    )


def _named_files(key: str, noun: str, pairs: tuple[str, ...]) -> dict[str, Path]:
    """Read pairs such as ``image=FILE``."""
    files: dict[str, Path] = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not equals or not name or not file:
            raise UserError(f"command line: --{key} {pair!r}; write --{key} {noun}=FILE")
        if name in files:
            raise UserError(f"command line: --{key} {name} is given twice; keep one")
        files[name] = Path(file)
    return files


# ---- extract, profiles


def extract_command() -> Command:
    """Return the command ``extract``."""
    return Command(
        "extract",
        _extract,
        [
            dataset("Dataset that the features are written to.", required=True),
            option("items", "Table of items, or of users (kind=user).", metavar="FILE", required=True),
            *_from_files("extract", "extract.run", "ExtractParams"),
        ],
        usage="--items=FILE --dataset=NAME [--key=value ...]",
        summary="Compute features of items or users: of the texts of a table, of the images of a folder.",
        example=(
            "recbole-siger extract --items=items.tsv --dataset=shop "
            "--text-model=tfidf --text-cols=title,brand"
        ),
    )


def _extract(**values: Any) -> None:
    from recbole_siger.extract.run import ExtractParams, extract
    from recbole_siger.options.command import command_params

    extract(command_params(ExtractParams, "extract", _as_text(values)), report=print_line)


def profiles_command() -> Command:
    """Return the command ``profiles``."""
    return Command(
        "profiles",
        _profiles,
        [
            dataset("Dataset that the profiles are written to.", required=True),
            option("kind", "Who is described.", metavar="KIND", choices="item | user", required=True),
            option("items", "Table of items.", metavar="FILE", required=True),
            option("model", "Language model; for transformers its folder.", metavar="NAME", required=True),
            *_from_files("profiles", "profiles.run", "ProfilesParams"),
        ],
        usage="--items=FILE --dataset=NAME --kind=item|user --model=NAME [--key=value ...]",
        summary="Let a language model describe items, or users by their training rows.",
        example=(
            "recbole-siger profiles --items=items.tsv --dataset=shop --kind=item "
            "--base-url=http://localhost:8000/v1 --model=NAME --dry-run"
        ),
    )


def _profiles(**values: Any) -> None:
    from recbole_siger.options.command import command_params
    from recbole_siger.profiles.run import ProfilesParams, profiles

    profiles(command_params(ProfilesParams, "profiles", _as_text(values)), report=print_line)


def _as_text(values: dict[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in given(**values).items()}


# ---- cache, doctor


def cache_command() -> Command:
    """Return the command ``cache``."""
    return Command(
        "cache",
        _cache,
        [
            click.Argument(["action"], type=click.Choice(["ls", "clear"]), metavar="ls|clear"),
            option(
                "cache_dir",
                "Folder of the graphs; by default the user's cache folder.",
                metavar="FOLDER",
            ),
        ],
        usage="ls|clear [--cache_dir=FOLDER]",
        summary="List or delete the graphs that earlier runs have stored.",
        example="recbole-siger cache ls",
    )


def _cache(action: str, cache_dir: str | None) -> None:
    from recbole_siger.graph.cache import GraphCache

    graphs = GraphCache(cache_dir)
    if graphs.folder is not None:
        check_output(graphs.folder / "a graph", "--cache_dir")
    for line in graphs.report() if action == "ls" else [graphs.clear()]:
        print_line(line)


def doctor_command() -> Command:
    """Return the command ``doctor``."""
    return Command(
        "doctor",
        _doctor,
        [option("json", "Whether JSON is printed instead of a table.", kind="bool", default="False")],
        usage="[--json]",
        summary="Check this installation; the exit code is 1 if something prevents every run.",
        example="recbole-siger doctor",
    )


def _doctor(json: bool | None) -> int:
    from recbole_siger.cli import doctor

    return doctor.main(as_json=bool(json))


COMMANDS: dict[str, Callable[[], Command]] = {
    "prepare": prepare_command,
    "import-mmrec": import_mmrec_command,
    "extract": extract_command,
    "profiles": profiles_command,
    "cache": cache_command,
    "doctor": doctor_command,
}
