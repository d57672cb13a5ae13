"""Malformed configurations, files and words: exit code 0, 1 or 2, one line, nothing else is touched.

Each case runs ``cli.main`` in this process on a copy of a small folder of good inputs. Unexpected errors,
which the command line reports with exit code 1, count as failures here.

``python -m tests.fuzz.test_fuzz SECONDS [SEED [FAMILY ...]]`` searches longer and prints each kind of failure
once.
"""

from __future__ import annotations

import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.cases import FAMILIES
from tests.fuzz.world import Case, make_world, problems

EXAMPLES = {
    "configurations": 60,
    "datasets": 30,
    "trainings": 20,
    "run_folders": 30,
    "raw_data": 50,
    "features": 40,
    "typed": 50,
}
"""Cases of the default suite: 280, in less than 20 seconds of CPU."""

BATCH, SLOW_BATCHES = 50, 6
"""Cases of a batch, and batches of a family in the slow part: 2,100 cases, the same on every machine."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("fuzz") / "world")


def search(family: str, n_cases: int, number: int, check: Callable[[Case], None], *, shrink: bool) -> None:
    """Check ``n_cases`` cases of a family; the same number of a batch gives the same cases."""
    phases = [Phase.generate, *([Phase.shrink] if shrink else [])]

    @seed(number)
    @settings(
        max_examples=n_cases,
        deadline=None,
        database=None,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    @given(FAMILIES[family])
    def cases(case: Case) -> None:
        check(case)

    cases()


def accept(world: Path, family: str, number: int) -> Callable[[Case], None]:
    """Return a check that raises an AssertionError which shows the case and where the search found it."""

    def check(case: Case) -> None:
        found = problems(world, case)
        assert not found, "\n".join([f"{family}, batch {number}:", *found, case.show()])

    return check


@pytest.mark.parametrize("family", FAMILIES)
def test_malformed_input(world: Path, family: str) -> None:
    search(family, EXAMPLES[family], 0, accept(world, family, 0), shrink=False)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_malformed_input_for_minutes(world: Path, family: str) -> None:
    for number in range(1, SLOW_BATCHES + 1):
        search(family, BATCH, number, accept(world, family, number), shrink=False)


def explore(seconds: float, number: int, families: list[str]) -> int:
    """Search for ``seconds``; print each kind of failure with its first case, and return their number."""
    end, seen, counts = time.monotonic() + seconds, Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        world = make_world(Path(folder) / "world")

        def check(case: Case) -> None:
            if time.monotonic() > end:
                return
            counts[family] += 1
            for problem in problems(world, case):
                kind = (
                    re.sub(r"\d+|'[^']*'|/\S+", "_", problem)[:160]
                    if " at " not in problem
                    else problem.split(" at ")[1]
                )
                seen[kind] += 1
                if seen[kind] == 1:
                    print(f"\n#### {family}, batch {number}: {problem}\n{case.show()}", flush=True)

        while time.monotonic() < end:
            family = families[number % len(families)]
            search(family, BATCH, number, check, shrink=False)
            number += 1
    print(f"\ncases: {dict(counts)}; kinds of failures: {len(seen)}")
    for kind, count in seen.most_common():
        print(f"{count:5}  {kind}")
    return len(seen)


if __name__ == "__main__":
    start = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    sys.exit(min(explore(float(sys.argv[1]), start, sys.argv[3:] or list(FAMILIES)), 1))
