"""What the commands of :mod:`recbole_siger.cli.recommend` do; imported when one of them is called."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from recbole_siger.common.numbers import whole_number
from recbole_siger.common.terminal import build_table, open_console, print_line
from recbole_siger.data.features import coverage_line, has_feature, load_features
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import shown
from recbole_siger.recommend.ids import IdTable, first_ids
from recbole_siger.recommend.ranking import join
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.recommend.writing import (
    check_table_file,
    read_id_list,
    write_recommendations,
    write_table,
)

__all__ = ["Engine", "new_items", "recommend", "similar"]

MAX_PRINTED = 100
MAX_TITLE = 60


@dataclass(frozen=True)
class Engine:
    """Where recommendations are computed."""

    name: Literal["local", "ray"] = "local"
    workers: int = 1

    @classmethod
    def read(cls, name: Any, workers: str, out: str | None) -> Engine:
        """Check the words of the command line."""
        number = _number(workers, "workers")
        if name == "local" and number > 1:
            raise UserError(f"command line: --workers={number} requires --engine=ray")
        if name == "ray" and not out:
            raise UserError("command line: --engine=ray writes a file; name the file with --out")
        return cls(name, number)


def recommend(
    run_dir: str,
    users: str,
    k: str,
    out: str | None,
    exclude_seen: bool,
    candidates: str | None,
    on_unknown: Any,
    engine: Engine,
) -> None:
    """Print or write recommendations."""
    number, file = _number(k), out and check_table_file(out)
    recommender = Recommender.load(run_dir)
    ids = recommender.user_ids("all") if users == "all" else _found(recommender.users, users, on_unknown)
    chosen = None if candidates is None else _found(recommender.items, candidates, on_unknown)
    _give(recommender, ids, number, file or None, exclude_seen, chosen, engine)


def _found(table: IdTable, text: str, on_unknown: Any) -> Any:
    """Return the internal ids of ids between commas or of a file; say how many unknown ids are skipped."""
    given = read_id_list(text)
    found = table.find(given, on_unknown)
    if len(found) < len(given):
        unknown = table.unknown(given)
        count = f"{len(unknown):,} of {len(given):,} {table.noun} ids"
        print_line(f"{count} are not in the run and are skipped: {first_ids(unknown)}", sys.stderr)
    return found


def _give(
    recommender: Recommender,
    users: Any,
    k: int,
    out: Path | None,
    exclude_seen: bool,
    candidates: Any,
    engine: Engine = Engine(),
) -> None:
    candidates = None if candidates is None else np.unique(candidates)
    if out is None:
        if len(users) > MAX_PRINTED:
            raise UserError(
                f"command line: {len(users):,} users are too many to print; name a file with --out"
            )
        found = recommender.frame(users, join(recommender.rank(users, k, exclude_seen, candidates)))
        if len(found):
            _print(recommender, found, "item")
        else:
            print(f"no recommendations: {len(users):,} users of the run, no item left to rank")
        return
    columns = (TextColumn("users"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(users))
        there = write_recommendations(
            recommender,
            users,
            out,
            k=k,
            exclude_seen=exclude_seen,
            candidates=candidates,
            engine=engine.name,
            workers=engine.workers,
            progress=lambda n: bar.advance(task, n),
        )
    again = f" ({there} shards were there already)" if there else ""
    print(f"{out}: {len(users):,} users{again}")


def similar(run_dir: str, items: str | None, users: str | None, k: str, out: str | None) -> None:
    """Print or write similar items or users."""
    number, file = _number(k), out and check_table_file(out)
    recommender = Recommender.load(run_dir)
    if items is not None:
        found = recommender.similar_items(read_id_list(items), number)
    else:
        found = recommender.similar_users(read_id_list(str(users)), number)
    _print_or_write(recommender, found, file or None, "similar" if items is not None else "")


def new_items(
    run_dir: str,
    items: str | None,
    features: str,
    users: str | None,
    k: str,
    out: str | None,
    id_embedding: Any,
) -> None:
    """Score new items: rank them for users, or print what they are similar to."""
    number, file = _number(k), out and check_table_file(out)
    files = _feature_files(features)
    known = _ids_beside(files)
    ids = read_id_list(items) if items else known
    if strange := sorted(set(ids) - set(known)):
        named = first_ids(strange)
        raise UserError(
            f"command line: --items: {named}: no feature file has a row of this id; correct the ids"
        )
    tables = {name: load_features(path, ["[PAD]", *ids]) for name, path in files.items()}
    for name, table in tables.items():
        if not has_feature(table)[1:].all():
            print_line(coverage_line(name, table), sys.stderr)
    rows = {name: table[1:] for name, table in tables.items()}
    recommender = Recommender.load(run_dir).add_items(rows, ids, id_embedding=id_embedding)
    if users is None:
        _print_or_write(recommender, recommender.similar_items(ids, number), file or None, "similar")
        return
    chosen = recommender.user_ids(users if users == "all" else read_id_list(users))
    _give(recommender, chosen, number, file or None, False, recommender.items.find(ids))


def _feature_files(text: str) -> dict[str, Path]:
    files = {}
    for word in text.split(","):
        name, equals, path = word.strip().partition("=")
        if not equals or not name or not path:
            raise UserError(f"command line: --features={text}: write --features=image=FILE.npy,text=FILE.npy")
        if name in files:
            raise UserError(f"command line: --features={text}: {name} is given twice; keep one")
        files[name] = Path(path)
    return files


def _ids_beside(files: dict[str, Path]) -> list[str]:
    """Return the ids of all feature files, each once, in their order."""
    found: dict[str, None] = {}
    for path in files.values():
        beside = path.with_suffix(".ids")
        if not beside.is_file():
            raise UserError(f"{beside}: no such file; write the id of each row of {path.name} there")
        found |= dict.fromkeys(read_id_list(str(beside)))
    return [*found]


def _number(text: str, key: str = "k") -> int:
    if not (number := whole_number(text)):
        raise UserError(f"command line: {key}={shown(text)}: expected an integer in [1, inf)")
    return number


def _print_or_write(recommender: Recommender, frame: pd.DataFrame, out: Path | None, titled: str) -> None:
    if out is None:
        _print(recommender, frame, titled)
    else:
        write_table(frame, out)
        print(f"{out}: {len(frame):,} rows")


def _print(recommender: Recommender, frame: pd.DataFrame, titled: str) -> None:
    """Print a table, with the titles of the items in the column ``titled`` if the run has them."""
    columns = [*frame.columns]
    rows = [
        [f"{x:.4f}" if isinstance(x, float) else str(x) for x in row] for row in frame.to_numpy().tolist()
    ]
    texts = recommender.item_texts([*dict.fromkeys(frame[titled])]) if titled else pd.DataFrame()
    name = next((column for column in texts.columns if column != "item"), None)
    if name:
        titles = dict(zip(texts["item"], texts[name], strict=True))
        columns.append(name)
        place = columns.index(titled)
        rows = [[*row, titles.get(row[place], "")[:MAX_TITLE]] for row in rows]
    console = open_console()
    console.print(build_table(console, "", columns, rows))
