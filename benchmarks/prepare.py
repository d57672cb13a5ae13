"""Time and memory of ``recbole-siger prepare`` on random files in each raw format.

The full size is the size of Sports: 35,598 users, 18,357 items, 296,337 interactions, features of all items.
About 1 GB of temporary files.

    python -m benchmarks.prepare --quick
    python -m benchmarks.prepare --out=results/performance.jsonl
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import fresh_process_peak, print_table, write_records
from benchmarks.raw import SPORTS, WRITERS

OPTIONS: dict[str, dict[str, str]] = {
    "amazon": {"category": "Sports_and_Outdoors"},
    "microlens": {},
    "movielens": {"edition": "ml-1m"},
    "csv": {},
}


def prepare_once(name: str, folder: str) -> tuple[float, float]:
    """Prepare one format's files; return seconds, of the wall and of the processor."""
    from recbole_siger.prepare.run import prepare

    kind, _, edition = name.partition(" ")
    raw = f"{folder}/raw"
    values = {"name": "out", "data_path": folder, **OPTIONS[kind]}
    if kind == "csv":
        values |= {"inter": f"{raw}/my.csv", "items": f"{raw}/items.csv"}
    else:
        values |= {"source": raw} | ({"edition": edition} if edition else {})
    wall, busy = time.perf_counter(), time.process_time()
    prepare(kind, values, report=lambda line: None)
    return time.perf_counter() - wall, time.process_time() - busy


def import_only() -> None:
    """Import the modules of ``prepare``: the minimum of its memory."""
    import recbole_siger.prepare.run  # noqa: F401  # measured, not used


def megabytes(folder: Path) -> float:
    """Return the size of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*")) / 1e6


def main() -> None:
    """Print one row for each format."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a hundredth of the size")
    parser.add_argument(
        "--formats", nargs="+", choices=WRITERS, default=list(WRITERS), help="formats to time"
    )
    parser.add_argument("--out", type=Path, help="file of JSON lines to append to")
    options = parser.parse_args()
    shape = SPORTS.part(100) if options.quick else SPORTS
    _, floor = fresh_process_peak(import_only)
    rows: list[list[Any]] = []
    for name in options.formats:
        with tempfile.TemporaryDirectory() as folder:
            WRITERS[name](Path(folder) / "raw", shape)
            seconds, peak = fresh_process_peak(prepare_once, name, folder)
            sizes = [megabytes(Path(folder) / part) for part in ("raw", "out")]
            rows.append([name, *sizes, *seconds, peak - floor])
    header = ["format", "MB in", "MB out", "seconds", "processor s", "MiB over import"]
    print_table(f"prepare: {shape}, import {floor:.0f} MiB", header, rows)
    records = [
        {"benchmark": "prepare", "interactions": shape.interactions, **dict(zip(header, row, strict=True))}
        for row in rows
    ]
    write_records(options.out, records)


if __name__ == "__main__":
    main()
