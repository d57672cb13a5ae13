"""Run every benchmark, one after the other, each in a separate process.

python -m benchmarks.all --quick
python -m benchmarks.all --data_path=dataset --out=results/performance.jsonl
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from benchmarks.measure import machine

SCRIPTS = (
    "step",
    "epoch",
    "full_contrast",
    "evaluation",
    "loader",
    "graphs",
    "subspaces",
    "prepare",
    "recommend",
    "serve",
    "processes",
)
WITHOUT_DATA = ("graphs", "subspaces", "prepare", "recommend", "serve")


def main() -> int:
    """Run the scripts; return 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="small shapes and few rounds: five minutes in all"
    )
    parser.add_argument("--data_path", help="folder of imported datasets; by default interactions are drawn")
    parser.add_argument("--out", help="file of JSON lines to append to")
    parser.add_argument("--only", nargs="+", choices=SCRIPTS, default=SCRIPTS, help="run these scripts only")
    options = parser.parse_args()
    print(json.dumps(machine()))
    failed = []
    for script in options.only:
        arguments, start = ["--quick"] if options.quick else [], time.perf_counter()
        if options.data_path and script not in WITHOUT_DATA:
            arguments.append(f"--data_path={options.data_path}")
        if options.out:
            arguments.append(f"--out={options.out}")
        if subprocess.run([sys.executable, "-m", f"benchmarks.{script}", *arguments], check=False).returncode:
            failed.append(script)
        print(f"{script}: {time.perf_counter() - start:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
