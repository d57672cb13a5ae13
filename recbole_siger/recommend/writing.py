"""Recommendations for many users in a file: written in shards, so that an interrupted command continues."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recbole_siger.common.digests import canonical_digest
from recbole_siger.common.files import atomic_path, check_output, delete_leftovers, sha256, write_text
from recbole_siger.common.locks import LOCK, locked
from recbole_siger.errors import UserError
from recbole_siger.recommend.ranking import Ranked, check_k
from recbole_siger.recommend.ray_engine import Request, rank_on_ray
from recbole_siger.recommend.recommender import Recommender, SeenChoice
from recbole_siger.runs.scoring import EMBEDDINGS_FILE, SEEN_FILE

__all__ = ["check_table_file", "read_id_list", "write_recommendations", "write_table"]

Ids = NDArray[np.int64]

SUFFIXES = (".csv", ".jsonl", ".parquet")
SHARD_USERS, SHARD_ROWS = 20_000, 2_000_000
MAX_LIST_BYTES = 2**30


def read_id_list(text: str) -> list[str]:
    """Return raw ids: the lines of a file if ``text`` is the path of a file, else words between commas.

    Only LF, CRLF and CR end a line; an id may contain other line separators, such as U+2028.

    Raises:
        UserError: If the file is larger than 1 GiB, is no UTF-8, or there is no id.
    """
    path = Path(text)
    if "\0" not in text and len(text) < 4096 and path.is_file():
        if path.stat().st_size > MAX_LIST_BYTES:
            raise UserError(f"{path}: is larger than {MAX_LIST_BYTES:,} bytes; divide the list of ids")
        try:
            ids = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: is not UTF-8 (byte {error.start:,}); save it as UTF-8") from None
    else:
        ids = [word.strip() for word in text.split(",")]
    ids = [one for one in ids if one]
    if not ids:
        raise UserError(f"{text!r}: no id; write ids between commas, or name a file with one id a line")
    return ids


def check_table_file(out: str | Path) -> Path:
    """Return the path of a table to write.

    Raises:
        UserError: If the suffix is not .csv, .jsonl or .parquet, pyarrow is missing for .parquet, or the path
            is a folder.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise UserError(f"{out}: unknown kind of table; name a file that ends with {', '.join(SUFFIXES)}")
    if out.suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"{out}: parquet needs pyarrow; run `pip install pyarrow`, or write a .csv")
    return check_output(out)


def write_table(frame: pd.DataFrame, out: Path) -> None:
    """Write a table as .csv, .jsonl or .parquet, whole or not at all."""
    with atomic_path(out) as temporary:
        if out.suffix == ".csv":
            frame.to_csv(temporary, index=False, lineterminator="\n")
        elif out.suffix == ".jsonl" and frame.empty:
            temporary.touch()  # pandas writes an empty line, which is no JSON
        elif out.suffix == ".jsonl":
            frame.to_json(temporary, orient="records", lines=True, double_precision=15, force_ascii=False)
        else:
            frame.to_parquet(temporary, index=False)


def write_recommendations(
    recommender: Recommender,
    users: Ids,
    out: str | Path,
    *,
    k: int = 10,
    exclude_seen: SeenChoice = True,
    candidates: Ids | None = None,
    engine: Literal["local", "ray"] = "local",
    workers: int = 1,
    progress: Callable[[int], None] = lambda n_users: None,
) -> int:
    """Write the recommendations of many users, shard after shard, in bounded memory.

    Finished shards, of 20,000 users and 2,000,000 rows at most, lie beside ``out`` in a hidden folder until
    the file is whole. The same command with the same run, users and new items continues after an interrupt;
    any other command begins again. One process at a time writes ``out``.

    Args:
        recommender: The run.
        users: Internal user ids, shape ``(n,)``.
        out: The file; its suffix is the format.
        k: Items a user at most.
        exclude_seen: As for :meth:`~recbole_siger.recommend.recommender.Recommender.recommend`.
        candidates: Internal ids of the items that can be recommended, ascending; None: all items.
        engine: ``local``, this process, or ``ray``, actors of Ray Data; the rows are the same.
        workers: Actors of Ray, each with one CPU. Every node needs the same path of the run folder.
        progress: Called with the number of users of each shard.

    Returns:
        Number of shards that were there already.

    Raises:
        UserError: If the suffix of ``out`` is unknown, another process writes ``out``, items were added and
            the engine is ``ray``, or Ray fails; finished shards are kept.
    """
    out, k = check_table_file(out), check_k(k)
    out.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{out}: another process writes this file; wait until the process ends, or choose another --out"
    with locked(out.with_name(f".{out.name}{LOCK}"), busy):
        delete_leftovers(out.parent, out.name)
        return _write_locked(recommender, users, out, k, exclude_seen, candidates, engine, workers, progress)


def _write_locked(
    recommender: Recommender,
    users: Ids,
    out: Path,
    k: int,
    exclude_seen: SeenChoice,
    candidates: Ids | None,
    engine: str,
    workers: int,
    progress: Callable[[int], None],
) -> int:
    """Do what :func:`write_recommendations` does, with the lock of ``out``."""
    size = max(1, min(SHARD_USERS, SHARD_ROWS // min(k, len(recommender.items))))
    starts = range(0, max(len(users), 1), size)  # without a user, the columns are written
    parts = [users[start : start + size] for start in starts]
    options = {"k": k, "exclude_seen": exclude_seen, "shard": size, "n_items": len(recommender.items)}
    digests = [sha256(recommender.run.file(name)) for name in (EMBEDDINGS_FILE, SEEN_FILE)]
    lists = [None if x is None else canonical_digest(x.tolist()) for x in (users, candidates)]
    if recommender.n_added:
        first = recommender.n_trained
        lists.append(canonical_digest(recommender.scoring.tensors["item"][first:].tolist()))
        lists.append(canonical_digest(recommender.items.tokens[first:]))
    shards = _begin(out, canonical_digest([options, digests, lists], digits=64))
    files = [shards / f"{number:06}{out.suffix}" for number in range(len(parts))]
    todo = [number for number, file in enumerate(files) if not file.exists()]
    for number in sorted({*range(len(parts))} - {*todo}):
        progress(len(parts[number]))
    request = Request(recommender.run.path.resolve(), parts, k, exclude_seen, candidates)
    for number, ranked in _ranked(recommender, request, todo, engine, workers):
        write_table(recommender.frame(parts[number], ranked), files[number])
        progress(len(parts[number]))
    _join_files(files, out)
    shutil.rmtree(shards)
    return len(parts) - len(todo)


def _ranked(
    recommender: Recommender, request: Request, todo: list[int], engine: str, workers: int
) -> Iterator[tuple[int, Ranked]]:
    """Yield number and recommendations of the shards ``todo``."""
    if engine == "ray" and todo:
        if recommender.n_added:
            raise UserError("engine='ray': added items exist in this process only; use engine='local'")
        yield from rank_on_ray(request, todo, workers)
        return
    for number in todo:
        yield number, request.ranked(recommender, number)


def _begin(out: Path, plan: str) -> Path:
    """Return the folder of shards; shards of another plan are deleted."""
    shards = out.with_name(f".{out.name}.shards")
    file = shards / "plan.json"
    if shards.is_dir() and _plan_of(file) != plan:
        shutil.rmtree(shards)
    write_text(file, json.dumps({"plan": plan}) + "\n")
    return shards


def _plan_of(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _join_files(parts: Sequence[Path], out: Path) -> None:
    """Put shards together, one in memory at a time."""
    with atomic_path(out) as temporary:
        if out.suffix == ".parquet":
            _join_parquet(parts, temporary)
            return
        with temporary.open("wb") as whole:
            for number, part in enumerate(parts):
                with part.open("rb") as stream:
                    if number and out.suffix == ".csv":
                        stream.readline()  # the header
                    shutil.copyfileobj(stream, whole)


def _join_parquet(parts: Sequence[Path], temporary: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    # A column without a value, as in the shard of users without a possible item, has the type null.
    schema = pyarrow.unify_schemas([parquet.read_schema(part) for part in parts])
    with parquet.ParquetWriter(temporary, schema) as writer:
        for part in parts:
            writer.write_table(parquet.read_table(part).cast(schema))
