"""Test and measure the package on a GPU; one summary of at most 60 lines, within eight minutes.

    python -m benchmarks.gpu --out=gpu-report
    python -m benchmarks.gpu --out=gpu-report --device=cpu --quick

Each part runs in a process of its own with a time limit. A part that fails or is too slow is one line of the
summary, and the other parts run. ``OUT`` receives ``summary.txt``, ``records.jsonl`` and the output of each
part.
``benchmarks/gpu.sh`` installs what is needed first.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

__all__ = ["PARTS", "Part", "main", "missing_packages", "run_part", "summary"]

ROOT = Path(__file__).parents[1]
LINES = 60


@dataclass(frozen=True)
class Part:
    """One part of the report.

    Attributes:
        name: Function of ``benchmarks.gpu_parts``, or ``tests``.
        seconds: Time limit.
        needs_gpu: Whether the part has no meaning on the CPU.
        lines: Most lines in the summary.
    """

    name: str
    seconds: float
    needs_gpu: bool = False
    lines: int = 6


PARTS = (
    Part("data", 90, lines=1),
    Part("tests", 210, needs_gpu=True, lines=5),
    Part("step", 75, lines=6),
    Part("launches", 40, needs_gpu=True, lines=4),
    Part("captured", 60, lines=5),
    Part("epoch", 60, lines=4),
    Part("precision", 60, lines=5),
    Part("evaluation", 45, lines=4),
    Part("products", 45, lines=10),
    Part("side_by_side", 60, lines=4),
)

TESTS = ("tests/gpu", "tests/unit/graph/test_graph_devices.py", "tests/contract/test_models.py")

# Import name and distribution of what every run imports, then of what some parts need.
REQUIRED = {
    "torch": "torch",
    "numpy": "numpy",
    "scipy": "scipy",
    "pandas": "pandas>=2.2.2,<3",
    "pytz": "pytz",
    "tzdata": "tzdata",
    "dateutil": "python-dateutil",
    "sklearn": "scikit-learn",
    "recbole": "recbole>=1.2.0,<1.3",
    "colorlog": "colorlog",
    "colorama": "colorama",
    "texttable": "texttable",
    "tqdm": "tqdm",
    "tensorboard": "tensorboard",
    "yaml": "pyyaml",
    "safetensors": "safetensors",
    "filelock": "filelock>=4.0",
    "rich": "rich",
    "click": "click",
    "threadpoolctl": "threadpoolctl",
}
FOR_A_PART = {"numba": "numba", "pytest": "pytest", "ray": "ray[tune]"}


def missing_packages(names: dict[str, str]) -> list[str]:
    """Return the distributions of which the module cannot be found."""
    return [package for module, package in names.items() if importlib.util.find_spec(module) is None]


def is_installed() -> bool:
    """Return whether the package itself is installed: a run writes its version."""
    try:
        return bool(version("recbole-siger"))
    except PackageNotFoundError:
        return False


def main(words: Sequence[str] | None = None) -> int:
    """Run the parts and print the summary; return 1 if a part failed."""
    options = parse(words)
    absent = [*missing_packages(REQUIRED), *([] if is_installed() else ["recbole-siger"])]
    if absent:
        print(
            f"missing packages: {' '.join(absent)}; docs/gpu.md says how to collect wheels", file=sys.stderr
        )
        return 2
    partly = " ".join(missing_packages(FOR_A_PART))
    note = f"missing packages that some parts need: {partly}" if partly else "no package is missing"
    if options.check:
        print(note)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "records.jsonl").unlink(missing_ok=True)
    shutil.rmtree(options.out / "work", ignore_errors=True)
    deadline, said, failed = time.monotonic() + options.seconds * options.slower, [], False
    for part in PARTS:
        if options.only and part.name not in (*options.only, "data"):
            continue
        lines, is_good = run_part(part, options, deadline - time.monotonic())
        failed |= not is_good
        said.append((part, lines))
        print(f"{part.name}: {lines[0] if lines else 'done'}", file=sys.stderr, flush=True)
    shutil.rmtree(options.out / "work", ignore_errors=True)
    text = summary(said, "\n".join([head(options), *([note] if partly else [])]))
    (options.out / "summary.txt").write_text(text, encoding="utf-8")
    print(text, end="")
    return int(failed)


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("gpu-report"), help="folder of the report")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small data and few rounds: a rehearsal")
    parser.add_argument("--data_path", type=Path, help="folder of datasets with baby/; by default drawn data")
    parser.add_argument("--seconds", type=float, default=470.0, help="time for all parts")
    parser.add_argument("--slower", type=float, default=1.0, help="factor on every time limit")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts only")
    parser.add_argument("--check", action="store_true", help="only list the packages that are missing")
    options = parser.parse_args(words)
    if options.data_path and not (options.data_path / "baby" / "baby.train.inter").is_file():
        parser.error(f"--data_path={options.data_path}: no baby/baby.train.inter, as import-mmrec writes it")
    return options


def run_part(part: Part, options: argparse.Namespace, left: float) -> tuple[list[str], bool]:
    """Run a part in a process of its own; return its lines and whether it succeeded.

    Args:
        part: The part.
        options: The command line.
        left: Seconds until the end of the whole report.
    """
    if part.needs_gpu and options.device == "cpu":
        return ["no GPU"], True
    limit = min(part.seconds * options.slower, left)
    if limit < 2:
        return ["not run: no time left"], False
    command, environment = command_of(part, options), {**os.environ, "PYTHONPATH": str(ROOT)}
    log, start = options.out / f"{part.name}.log", time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)  # what the part has started, too
            process.wait()
            return [*lines_of(log)[: part.lines - 1], f"stopped after {limit:.0f} s"], False
    lines = lines_of(log)
    if code:
        return [*lines[: part.lines - 1], f"failed: {last_line(log)}"], False
    return [*lines[: part.lines], f"({time.monotonic() - start:.0f} s)"], True


def command_of(part: Part, options: argparse.Namespace) -> list[str]:
    """Return the command line of a part."""
    if part.name == "tests":
        words = ["-o", "addopts=", "-v", "--durations=8", "-m", "gpu", "-p", "no:cacheprovider", *TESTS]
        return [sys.executable, "-m", "pytest", *words]
    words = ["-m", "benchmarks.gpu_parts", part.name, f"--out={options.out.resolve()}"]
    words += [f"--device={options.device}", *(["--quick"] if options.quick else [])]
    if options.data_path:
        words.append(f"--data_path={options.data_path.resolve()}")
    return [sys.executable, *words]


def lines_of(log: Path) -> list[str]:
    """Return the lines of the summary in a part's output: those with ``> `` in front, or pytest's last."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    marked = [line[2:] for line in lines if line.startswith("> ")]
    failures = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    counts = [line.strip("= ") for line in lines if " passed in" in line or " failed" in line][-1:]
    if not counts and not marked and (ended := [line for line in lines if "::" in line]):  # it was stopped
        failures = [line for line in ended if " FAILED" in line]
        n_passed = sum(" PASSED" in line for line in ended)
        counts = [f"{n_passed} passed, {len(failures)} failed until then"]
    return marked or [*counts, *failures]


def last_line(log: Path) -> str:
    """Return the last line that is not empty, cut to 150 characters."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1].strip()[:150] if lines else "no output"


def head(options: argparse.Namespace) -> str:
    """Return the line about the machine."""
    file = options.out / "machine.json"
    facts = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    shown = ("gpu", "cuda", "driver", "torch", "python", "recbole", "cores")
    return "  ".join(f"{key} {facts[key]}" for key in shown if facts.get(key)) or "machine unknown"


def summary(said: Sequence[tuple[Part, list[str]]], first: str) -> str:
    """Join the lines of the parts, at most :data:`LINES`: each part is cut to its own number of lines."""
    lines = first.splitlines()
    for part, found in said:
        shown = found[: part.lines + 1]
        lines += [f"{part.name:12} {line}" if not i else f"{'':12} {line}" for i, line in enumerate(shown)]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"... {len(lines) - LINES + 1} more lines in the logs"]
    return "\n".join(line[:160] for line in lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
