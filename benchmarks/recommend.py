"""Recommend to many users from a run folder, beside evaluation and an exact search with faiss.

The run folder is drawn: random embeddings, and for each user the items of a Zipf distribution as seen items.
``--part`` users are ranked and timed. The time for all users is that time multiplied by the ratio, because
each block of users costs the same. The memory is that of a fresh process that loads the folder of all users.

    python -m benchmarks.recommend --quick
    python -m benchmarks.recommend --part=1000000 --out=results/recommend.jsonl
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import fresh_process_peak, interleave, print_table, spread, write_records
from recbole_siger.evaluation.ranking import ItemLists, top_k
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import SEEN_FILE, Scoring, pack_lists

K, WIDTH, SEEN = 10, 64, 8


def draw_run(folder: Path, n_users: int, n_items: int, width: int = WIDTH) -> None:
    """Write a run folder with random embeddings; sizes without the padding."""
    run, generator = RunFolder(folder), torch.Generator().manual_seed(7)
    tables = {
        name: torch.randn(n + 1, width, generator=generator)
        for name, n in (("user", n_users), ("item", n_items))
    }
    run.write_config({"model": "SIGER", "dataset": "drawn", "save_embeddings": True})
    run.write_ids(*(["[PAD]", *(f"{x}{i}" for i in range(n))] for x, n in (("u", n_users), ("i", n_items))))
    rng = np.random.default_rng(7)
    users = np.repeat(np.arange(1, n_users + 1), SEEN)
    items = np.minimum(rng.zipf(1.3, len(users)), n_items)
    lists = ItemLists.from_pairs(users, items, n_users + 1, n_items + 1)
    none = ItemLists(np.zeros(n_users + 2, dtype=np.int64), np.empty(0, dtype=np.int64))
    run.write_tensors(SEEN_FILE, {**pack_lists("train", lists), **pack_lists("valid", none)})
    Scoring("embeddings", "SIGER", tables, n_users + 1, n_items + 1).write(run)


def rank(recommender: Recommender, n_users: int, exclude_seen: bool) -> int:
    """Rank items for the first users; return how many recommendations there are."""
    users = np.arange(1, n_users + 1)
    return sum(len(rows) for rows, _, _ in recommender.rank(users, K, exclude_seen))


def load_and_rank(folder: str, n_users: int) -> tuple[float, float, int]:
    """Load the folder and rank; return the seconds of both and the number of recommendations."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    recommender = Recommender.load(folder)
    loaded = time.perf_counter()
    n = rank(recommender, n_users, exclude_seen=True)
    return loaded - start, time.perf_counter() - loaded, n


def faiss_search(recommender: Recommender, n_users: int) -> Any:
    """Return what searches the exact top-k with faiss, in blocks of users; seen items are not left out."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    tables = recommender.embeddings()
    index = faiss.IndexFlatIP(WIDTH)
    index.add(tables.item.numpy())
    queries = tables.user[:n_users].numpy()

    def search() -> None:
        for start in range(0, n_users, 4096):
            index.search(queries[start : start + 4096], K)

    return search


def evaluation(recommender: Recommender, n_users: int) -> Any:
    """Return what ranks as an evaluation does: product, hidden items, top-k, without lists of results."""
    tables = recommender.embeddings()
    user, item = (torch.cat((table[:1] * 0, table)) for table in (tables.user[:n_users], tables.item))
    seen = recommender.seen["train"]

    def rank_all() -> None:
        for start in range(1, n_users + 1, 1024):
            rows = np.arange(start, min(start + 1024, n_users + 1))
            scores = user[rows] @ item.T
            place, hidden = seen.of(rows)
            scores[torch.from_numpy(place), torch.from_numpy(hidden)] = -torch.inf
            scores[:, 0] = -torch.inf
            top_k(scores, K)

    return rank_all


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a hundredth of the users, one round")
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--part", type=int, default=20_000, help="users that are ranked and timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    options = parser.parse_args()
    n_users = options.users // 100 if options.quick else options.users
    part, rounds = min(options.part // (10 if options.quick else 1), n_users), options.rounds
    rounds = 1 if options.quick else rounds
    with tempfile.TemporaryDirectory() as folder:
        draw_run(Path(folder), n_users, options.items)
        recommender = Recommender.load(folder)
        (load, _, n), peak = fresh_process_peak(load_and_rank, folder, part)
        assert n == part * K
        candidates = {
            "ours, seen items left out": lambda: rank(recommender, part, True),
            "ours, all items": lambda: rank(recommender, part, False),
            "evaluation, seen items left out": evaluation(recommender, part),
        }
        if importlib.util.find_spec("faiss"):
            candidates["faiss IndexFlatIP, all items"] = faiss_search(recommender, part)
        times = interleave(candidates, rounds)
    rows = []
    for name, seconds in times.items():
        median = spread(seconds)["median"]
        rows.append([name, part / median, median * n_users / part / 60, *spread(seconds).values()])
    header = ["candidate", "users a second", f"minutes for {n_users:,} users", "median s", "min s", "max s"]
    title = f"{part:,} of {n_users:,} users, {options.items:,} items, d {WIDTH}, k {K}"
    print_table(f"{title}, {torch.get_num_threads()} threads", header, rows)
    print(
        f"load {load:.2f} s; peak memory of a process that loads all users and ranks the part: {peak:.0f} MiB"
    )
    facts = {"users": n_users, "part": part, "items": options.items, "load": load, "peak_mib": peak}
    records = [{"benchmark": "recommend", "name": n, **facts, **spread(s)} for n, s in times.items()]
    write_records(options.out, records)


if __name__ == "__main__":
    main()
