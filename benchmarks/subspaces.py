"""Time and memory of SCALE's subspace graphs, and of its pursuit against scikit-learn's.

The graphs have Amazon Baby's sizes: random unit rows, 384 wide, 800 candidates, 10 edges a row. Every graph
is built in a process of its own; memory is the peak above the inputs. The pursuit gets the same candidates as
scikit-learn's `orthogonal_mp`, and the script counts the rows with equal supports:

    python -m benchmarks.subspaces --quick
    python -m benchmarks.subspaces --features=dataset/lfm2k/lfm2k.text.npy --out=results/performance.jsonl
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import orthogonal_mp
from torch import Tensor

from benchmarks.graphs import peak, reset_peak
from benchmarks.measure import fresh_process_peak, print_table, write_records
from recbole_siger.data.features import open_features
from recbole_siger.graph import omp
from recbole_siger.graph.cosine import UnitRows
from recbole_siger.graph.omp import subspace_graph

WIDTH, N_CANDIDATES, SPARSITY = 384, 800, 10
BABY = {"users": 19_445, "items": 7_050}
SMALL = {"users": 1_201, "items": 907}
GRAPHS = {"C^U": ("users", "users"), "C^UI": ("users", "items"), "C^I": ("items", "items")}


def main(arguments: list[str] | None = None) -> None:
    """Measure graphs and pursuits; print a table of each and write JSON lines if requested."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.subspaces", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="small tables and few rows: under a minute")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads, in turn")
    parser.add_argument("--features", type=Path, help="a .npy file of real rows, for the second table")
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    options = parser.parse_args(arguments)
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as every command sets; read when a process starts
    sizes = SMALL if options.quick else BABY
    graphs = []
    for threads in options.threads:
        for name in GRAPHS:
            graphs.append(fresh_process_peak(measure_graph, name, sizes, threads)[0])
            write_records(options.out, [{"benchmark": "subspaces", **graphs[-1]}])
    print_graphs(graphs)
    n_rows = 41 if options.quick else 1_000
    tables: dict[str, Path | None] = {"random": None}
    if options.features:
        tables["real"] = options.features
    pursuits = [
        {**found, "table": table}
        for table, file in tables.items()
        for found in fresh_process_peak(measure_pursuits, file, sizes["items"], n_rows)[0]
    ]
    print_pursuits(pursuits)
    write_records(options.out, [{"benchmark": "subspaces", **one} for one in pursuits])


def unit_rows(n: int, seed: int) -> Tensor:
    """Draw rows of length 1; row 0 is padding."""
    rows = torch.randn(n + 1, WIDTH, generator=torch.Generator().manual_seed(seed))
    rows /= rows.norm(dim=1, keepdim=True)
    rows[0] = 0
    return rows


def timed(run: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """Return the result, wall seconds, processor seconds and the machine's load before."""
    load, wall, processor = os.getloadavg()[0], time.perf_counter(), time.process_time()
    result = run()
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    return result, {"seconds": wall, "cpu_seconds": processor, "load": load}


# ---- graphs


def measure_graph(name: str, sizes: dict[str, int], threads: int) -> dict[str, Any]:
    """Build one graph, compilation included."""
    torch.set_num_threads(threads)
    sides = GRAPHS[name]
    tables = {side: unit_rows(sizes[side], seed) for seed, side in enumerate(sorted(set(sides)))}
    queries, atoms = (tables[side] for side in sides)
    before = reset_peak()
    graph, times = timed(
        lambda: subspace_graph(queries, atoms, N_CANDIDATES, SPARSITY, same=sides[0] == sides[1])
    )
    facts = {"graph": name, "rows": sizes[sides[0]], "atoms": sizes[sides[1]], "threads": threads}
    return {**facts, **times, "peak_mib": peak() - before, "n_edges": graph._nnz()}


def print_graphs(found: list[dict[str, Any]]) -> None:
    """Print a row for each graph, and the sum of each number of threads."""
    header = ["graph", "rows x atoms", "threads", "s", "processor s", "MiB", "load"]
    rows = [
        [one["graph"], f"{one['rows']:,} x {one['atoms']:,}", one["threads"], one["seconds"],
         one["cpu_seconds"], one["peak_mib"], one["load"]]
        for one in found
    ]  # fmt: skip
    for threads in dict.fromkeys(one["threads"] for one in found):
        some = [one for one in found if one["threads"] == threads]
        sums = [sum(one[key] for one in some) for key in ("seconds", "cpu_seconds")]
        rows.append(["all three", "", threads, *sums, max(one["peak_mib"] for one in some), ""])
    print_table(f"Subspace graphs, {WIDTH} wide", header, rows)


# ---- pursuits


def measure_pursuits(file: Path | None, n_items: int, n_rows: int) -> list[dict[str, Any]]:
    """Choose atoms for rows of one table with both of our loops and with scikit-learn."""
    torch.set_num_threads(1)
    x = unit_rows(n_items, 1) if file is None else torch.from_numpy(np.array(open_features(file))).float()
    table = UnitRows(x)
    n_rows = min(n_rows, len(table))
    some = torch.arange(n_rows)
    (parts, places), search = timed(lambda: candidates_of(table, n_rows))
    unit = table.inverse_norm[some, None] * table.features[table.index[some]].double()
    results: list[dict[str, Any]] = [{"pursuit": "search of the candidates", **search}]
    chosen = {}
    for name, least in (("compiled", 0), ("tensors", 10**18)):
        omp.COMPILE_FROM = least
        pursue, first = timed(lambda: first_pursuit(table, unit, parts, places))
        chosen[name], times = timed(partial(pursue, unit.clone(), parts, places))
        results.append({"pursuit": name, **times, "first_call": first["cpu_seconds"]})
    theirs, times = timed(lambda: by_scikit_learn(table, unit, parts))
    results.append({"pursuit": "scikit-learn", **times})
    whole = (chosen["compiled"] >= 0).all(dim=1)  # a row with an identical atom stops early
    ours = [set(row) for row in chosen["compiled"].tolist()]
    n_equal = sum(a == b for a, b, full in zip(ours, theirs, whole, strict=True) if full)
    facts = {
        "rows": n_rows, "atoms": len(table), "width": x.shape[1], "full_rows": int(whole.sum()),
        "equal_supports": n_equal, "loops_agree": bool(torch.equal(*chosen.values())),
    }  # fmt: skip
    return [{**one, **facts, "ratio": one["cpu_seconds"] / times["cpu_seconds"]} for one in results]


def first_pursuit(table: UnitRows, unit: Tensor, candidates: Tensor, places: Tensor) -> omp.Pursuit:
    """Prepare a pursuit and choose the atoms of one row; this compiles the loop, if the loop is compiled."""
    pursue = omp._pursuit(table, table, N_CANDIDATES, SPARSITY)
    pursue(unit[:1].clone(), candidates[:1], places[:1])
    return pursue


def candidates_of(table: UnitRows, n_rows: int) -> tuple[Tensor, Tensor]:
    """Return positions of each row's nearest atoms, ascending, ``(n_rows, k)``, and places of the nearest."""
    parts, places = [], []
    for some, atoms, first in omp.candidate_atoms(table, table, min(N_CANDIDATES, len(table) - 1), same=True):
        parts.append(atoms)
        places.append(first)
        if some.stop >= n_rows:
            break
    return torch.cat(parts)[:n_rows], torch.cat(places)[:n_rows]


def by_scikit_learn(table: UnitRows, unit: Tensor, candidates: Tensor) -> list[set[int]]:
    """Return the positions of the atoms that `orthogonal_mp` chooses for each row."""
    atoms: NDArray[np.float64] = (
        table.features[table.index].double() * table.inverse_norm.unsqueeze(1)
    ).numpy()
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a row with an identical atom is reproduced exactly before the end
        for row, some in zip(unit.numpy(), candidates.numpy(), strict=True):
            coefficients = orthogonal_mp(atoms[some].T, row, n_nonzero_coefs=SPARSITY)
            found.append({int(atom) for atom in some[np.flatnonzero(coefficients)]})
    return found


def print_pursuits(found: list[dict[str, Any]]) -> None:
    """Print a row for each loop, and the rows with equal supports."""
    header = ["rows", "pursuit", "s", "processor s", "/ scikit-learn", "first call, s", "load"]
    rows = [
        [one["table"], one["pursuit"], one["seconds"], one["cpu_seconds"], one["ratio"],
         one.get("first_call", ""), one["load"]]
        for one in found
    ]  # fmt: skip
    n_rows, width = found[0]["rows"], found[0]["width"]
    print_table(f"{n_rows:,} rows, {width} wide, {N_CANDIDATES} candidates, {SPARSITY} atoms", header, rows)
    for table in dict.fromkeys(one["table"] for one in found):
        one = next(one for one in found if one["table"] == table)
        print(
            f"{table}: {one['equal_supports']:,} of {one['full_rows']:,} rows with {SPARSITY} atoms have the "
            f"atoms of scikit-learn; {one['rows'] - one['full_rows']:,} rows stopped early; "
            f"both of our loops agree: {one['loops_agree']}"
        )


if __name__ == "__main__":
    main()
