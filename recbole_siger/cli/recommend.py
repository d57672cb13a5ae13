"""Commands that use a finished run: recommend, find similar items, score new items, export."""

from __future__ import annotations

from collections.abc import Callable

import click

from recbole_siger.cli.command import Command, option
from recbole_siger.errors import UserError

__all__ = ["COMMANDS"]

FOLDER = "runs/ml-100k/SIGER-20260101-120000-seed2020"
IDS = "IDS|FILE"


def recommend_command() -> Command:
    """Return the command ``recommend``."""
    return Command(
        "recommend",
        _recommend,
        [
            click.Argument(["run_dir"]),
            option("users", "User ids between commas, a file with one id a line, or `all`.", metavar=IDS),
            option("k", "Items per user.", metavar="INT", default="10"),
            option(
                "out", "File to write: .csv, .jsonl or .parquet; a few users are printed.", metavar="FILE"
            ),
            option(
                "exclude_seen",
                "Whether training and validation items of the user are left out.",
                kind="bool",
                default="True",
            ),
            option("candidates", "Only these items are recommended; by default all.", metavar=IDS),
            option(
                "on_unknown",
                "What is done with an unknown id.",
                choices="error | skip",
                default="error",
            ),
            option(
                "engine",
                "Where the work runs: this process, or actors of Ray; every node needs the run folder.",
                choices="local | ray",
                default="local",
            ),
            option("workers", "Actors of Ray, each with one CPU.", metavar="INT", default="1"),
        ],
        usage="RUN_DIR --users=IDS|FILE|all [--k=10] [--out=FILE]",
        summary="Recommend items to users of a finished run. The dataset is not needed.",
        example=f"recbole-siger recommend {FOLDER} --users=all --k=10 --out=recommendations.csv",
        note="An interrupted command continues when it is typed again.",
    )


def _recommend(
    run_dir: str,
    users: str | None,
    k: str | None,
    out: str | None,
    exclude_seen: bool | None,
    candidates: str | None,
    on_unknown: str | None,
    engine: str | None,
    workers: str | None,
) -> None:
    if not users:
        raise UserError("command line: recommend needs --users; write ids between commas, a file, or `all`")
    from recbole_siger.cli import using

    where = using.Engine.read(engine or "local", workers or "1", out)
    using.recommend(
        run_dir, users, k or "10", out, exclude_seen is not False, candidates, on_unknown or "error", where
    )


def similar_command() -> Command:
    """Return the command ``similar``."""
    return Command(
        "similar",
        _similar,
        [
            click.Argument(["run_dir"]),
            option("items", "Item ids between commas, or a file with one id a line.", metavar=IDS),
            option("users", "User ids in place of items.", metavar=IDS),
            option("k", "Similar items or users of each.", metavar="INT", default="10"),
            option("out", "File to write: .csv, .jsonl or .parquet.", metavar="FILE"),
        ],
        usage="RUN_DIR --items=IDS|FILE | --users=IDS|FILE [--k=10] [--out=FILE]",
        summary="Print the items, or the users, with the nearest final embeddings.",
        example=f"recbole-siger similar {FOLDER} --items=50,181 --k=5",
    )


def _similar(run_dir: str, items: str | None, users: str | None, k: str | None, out: str | None) -> None:
    if bool(items) == bool(users):
        raise UserError("command line: similar needs --items or --users, one of the two")
    from recbole_siger.cli import using

    using.similar(run_dir, items, users, k or "10", out)


def new_items_command() -> Command:
    """Return the command ``new-items``."""
    return Command(
        "new-items",
        _new_items,
        [
            click.Argument(["run_dir"]),
            option("items", "New item ids between commas, or a file with one id a line.", metavar=IDS),
            option(
                "features",
                "One .npy file for each modality of the run, its .ids file beside it.",
                metavar="NAME=FILE,NAME=FILE",
                required=True,
            ),
            option("users", "Rank the new items for these users; by default nothing is ranked.", metavar=IDS),
            option(
                "k", "New items per user, or similar items of each new item.", metavar="INT", default="10"
            ),
            option("out", "File to write: .csv, .jsonl or .parquet.", metavar="FILE"),
            option("id_embedding", "ID embedding of a new item.", choices="zero | mean", default="zero"),
        ],
        usage="RUN_DIR --features=NAME=FILE,NAME=FILE [--items=IDS|FILE] [--users=IDS|FILE|all] [--out=FILE]",
        summary="Score items that were not in training by their features; print what they are similar to.",
        example=(
            f"recbole-siger new-items {FOLDER} --features=image=new.image.npy,text=new.text.npy --users=all "
            "--out=new.csv"
        ),
    )


def _new_items(
    run_dir: str,
    items: str | None,
    features: str,
    users: str | None,
    k: str | None,
    out: str | None,
    id_embedding: str | None,
) -> None:
    from recbole_siger.cli import using

    using.new_items(run_dir, items, features, users, k or "10", out, id_embedding or "zero")


def export_command() -> Command:
    """Return the command ``export``."""
    return Command(
        "export",
        _export,
        [
            click.Argument(["run_dir"]),
            option(
                "format",
                "Tables, or an index of the items for inner products.",
                choices="npy | safetensors | parquet | faiss | hnsw",
                default="npy",
            ),
            option("out", "Folder to write; it must not exist.", metavar="FOLDER", required=True),
        ],
        usage="RUN_DIR --out=FOLDER [--format=npy|safetensors|parquet|faiss|hnsw]",
        summary="Write final embeddings with their ids for other programs.",
        example=f"recbole-siger export {FOLDER} --format=npy --out=vectors",
    )


def _export(run_dir: str, format: str | None, out: str) -> None:
    from recbole_siger.recommend.export import export
    from recbole_siger.recommend.recommender import Recommender

    for file in export(Recommender.load(run_dir), format or "npy", out):
        print(file)


COMMANDS: dict[str, Callable[[], Command]] = {
    "recommend": recommend_command,
    "similar": similar_command,
    "new-items": new_items_command,
    "export": export_command,
}
