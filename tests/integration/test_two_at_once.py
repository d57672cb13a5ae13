"""Two processes of this package at once on one machine: no interference, or one line. Real processes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from recbole_siger.quick_start import run_experiment
from tests.integration.conftest import Settings

pytestmark = pytest.mark.slow

# Every process imports what takes seconds, says that it is ready, and waits for the word to begin.
_TOGETHER = """
import sys
import recbole_siger.quick_start
from recbole_siger import cli
print("ready", flush=True)
sys.stdin.readline()
sys.exit(cli.main(sys.argv[1:]))
"""

Ended = tuple[int, str, str]


def start(words: list[str]) -> subprocess.Popen[str]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", _TOGETHER, *words], text=True, **pipes)  # type: ignore[call-overload,no-any-return]


def together(*commands: list[str]) -> list[Ended]:
    """Run commands in processes that begin at the same moment; return exit codes, outputs and errors."""
    started = [start(words) for words in commands]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in started:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    ended = [(process, *process.communicate(timeout=600)) for process in started]
    assert not any("Traceback" in error or "unexpected" in error for _, _, error in ended), ended
    return [(process.returncode, out, error) for process, out, error in ended]


def options(values: dict[str, Any]) -> list[str]:
    return [
        f"--{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items()
    ]


def one_line(error: str, part: str) -> bool:
    return error.startswith("error: ") and part in error and error.count("\n") == 1


@pytest.fixture
def finished(settings: Settings) -> Path:
    run_experiment("SIGER", "toy", config_dict=settings(epochs=2, n_semantic_neighbors=3, run_dir="run"))
    return Path("run")


def test_two_comparisons_share_their_runs(settings: Settings) -> None:
    words = ["compare", "--models=BPR,SIGER", "--dataset=toy", "--seeds=2"]
    values = options(settings(epochs=3))
    first, second = together([*words, "--out=a.json", *values], [*words, "--out=b.json", *values])
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert Path("a.json").read_text() == Path("b.json").read_text()
    folders = sorted(path.parent for path in Path("runs/toy").glob("*/results.json"))
    assert len(folders) == 4  # each run was made once
    assert all(len((folder / "metrics.jsonl").read_text().splitlines()) == 3 for folder in folders)
    assert {path for path in Path("runs/toy").iterdir() if path.is_dir()} == {*folders}
    assert not list(Path("runs").rglob("*.lock"))


def test_two_other_campaigns_do_not_disturb_each_other(settings: Settings) -> None:
    values = options(settings(epochs=2, n_semantic_neighbors=3))
    ablate = ["ablate", "--model=SIGER", "--dataset=toy", "--out=ablate.csv", *values]
    sweep = ["sweep", "--model=SIGER", "--dataset=toy", "--key=co_weight", "--values=0.1,0.3", *values]
    first, second = together(ablate, [*sweep, "--out=sweep.csv"])
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert "failed" not in Path("ablate.csv").read_text() + Path("sweep.csv").read_text()


@pytest.mark.parametrize("command", ["evaluate", "audit", "recommend", "similar", "report", "export"])
def test_readers_of_one_run_do_not_disturb_each_other(command: str, finished: Path) -> None:
    words = {
        "evaluate": ["evaluate", "run"],
        "audit": ["audit", "--run=run"],
        "recommend": ["recommend", "run", "--users=all", "--out=list.csv"],
        "similar": ["similar", "run", "--items=i7", "--out=near.csv"],
        "report": ["report", "run", "--out=page.html"],
        "export": ["export", "run", "--out=vectors"],
    }[command]
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    ended = together(words, words)
    assert 0 in [code for code, _, _ in ended], ended
    for code, _, error in ended:
        refused = one_line(error, "another process writes") or one_line(error, "exists already")
        assert code == 0 or refused, error
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before
    assert not [
        path for path in Path().iterdir() if path.name.startswith(".")
    ]  # no shards, locks, temporaries
    if command == "recommend":
        assert len(pd.read_csv("list.csv")) == len(pd.read_csv("list.csv").drop_duplicates()) > 0


def test_one_of_two_processes_resumes_a_run(settings: Settings) -> None:
    run_experiment("BPR", "toy", config_dict=settings(epochs=40, stopping_step=40, run_dir="run"))
    Path("run/results.json").rename("results.json")
    whole = Path("run/metrics.jsonl").read_text().splitlines()
    Path("run/metrics.jsonl").write_text("")
    ended = together(["resume", "run"], ["resume", "run"])
    assert sorted(code for code, _, _ in ended) == [0, 2], ended
    (error,) = (error for code, _, error in ended if code == 2)
    assert one_line(error, "another process works on this run") or one_line(error, "is finished")
    assert len(Path("run/metrics.jsonl").read_text().splitlines()) == len(whole)


def test_one_of_two_processes_prepares_a_dataset(workdir: Path) -> None:
    rows = "".join(f"u{i % 97},i{i % 53},{i}\n" for i in range(5_003))
    Path("log.csv").write_text("user,item,time\n" + rows)
    words = ["prepare", "csv", "--inter=log.csv", "--name=mine", "--data_path=dataset", "--user_col=user"]
    words += ["--item_col=item", "--time_col=time", "--k_core=1"]
    ended = together(words, words)
    assert sorted(code for code, _, _ in ended) == [0, 2], ended
    (error,) = (error for code, _, error in ended if code == 2)
    assert one_line(error, "another process writes") or one_line(error, "exists already")
    assert [path.name for path in Path("dataset").iterdir()] == ["mine"]
    parts = [
        len(Path(f"dataset/mine/mine.{part}.inter").read_text().splitlines()) - 1
        for part in ("train", "valid", "test")
    ]
    kept = {tuple(line.split(",")[:2]) for line in rows.splitlines()}
    assert sum(parts) in (len(kept), 5_003)


# ---- searches


def tune(out: str, **values: Any) -> list[str]:
    words = ["tune", "--model=BPR", "--dataset=toy", "--set=learning_rate=0.1,0.01,0.001", "--scheduler=none"]
    return [*words, "--max_concurrent=1", f"--out={out}", *options(values)]


def rows_of(folder: str) -> list[tuple[str, str, str]]:
    with Path(folder, "trials.csv").open(newline="") as stream:
        return [(row["learning_rate"], row["state"], row["valid_recall@5"]) for row in csv.DictReader(stream)]


def skip_if_busy(*ended: Ended) -> None:
    """Two Rays start in half a minute each, or not at all; this says nothing about the searches."""
    if any(one_line(error, "Ray does not start on this machine: ") for _, _, error in ended):
        pytest.skip("this machine is too busy to start two Rays")


def test_two_searches_do_not_disturb_each_other(settings: Settings) -> None:
    pytest.importorskip("ray")
    values = settings(epochs=3)
    first, second = together(tune("one", **values), tune("two", **values))
    skip_if_busy(first, second)
    assert (first[0], second[0]) == (0, 0), (first, second)
    assert rows_of("one") == rows_of("two")
    assert {state for _, state, _ in rows_of("one")} == {"finished"}
    assert (
        Path("one/best.yaml").read_text().splitlines()[2:]
        == Path("two/best.yaml").read_text().splitlines()[2:]
    )


def test_one_of_two_processes_searches_in_a_folder(settings: Settings) -> None:
    pytest.importorskip("ray")
    values = settings(epochs=3)
    ended = together(tune("out", **values), tune("out", **values))
    skip_if_busy(*ended)
    assert sorted(code for code, _, _ in ended) == [0, 2], ended
    (error,) = (error for code, _, error in ended if code == 2)
    assert one_line(error, "another process runs this search") or one_line(error, "has a search")
    assert [state for _, state, _ in rows_of("out")] == ["finished"] * 3
    assert [path.name for path in Path("out/ray").glob("session-*")] == ["session-1"]


# ---- what a kill leaves


def processes() -> dict[int, tuple[int, str, str]]:
    """Return ``{process id: (its parent, when it began, its command)}`` of all that have not ended."""
    form = ["ps", "-eww", "-o", "pid=,ppid=,stat=,lstart=,args="]
    lines = subprocess.run(form, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split(maxsplit=8) for line in lines]
    return {
        int(row[0]): (int(row[1]), " ".join(row[3:8]), row[8])
        for row in rows
        if len(row) == 9 and not row[2].startswith("Z")
    }


def family(parent: int) -> dict[int, tuple[str, str]]:
    """Return what a process has started, and what these have started: ``{process id: (begin, command)}``."""
    running = processes()
    found, todo = {}, [parent]
    while todo:
        one = todo.pop()
        children = {pid: row[1:] for pid, row in running.items() if row[0] == one}
        found |= children
        todo += children
    return found


def living(started: dict[int, tuple[str, str]]) -> list[str]:
    """Return the commands of those that have not ended; a new process can get the id of an ended one."""
    running = processes()
    return [
        command for pid, (begin, command) in started.items() if pid in running and running[pid][1] == begin
    ]


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
    return true()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_search_leaves_no_process(number: signal.Signals, settings: Settings) -> None:
    pytest.importorskip("ray")
    values = settings(epochs=100_000, stopping_step=100_000, eval_step=1)
    process = start(tune("out", **values))
    try:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
        results = Path("out/ray/session-1")
        assert wait_until(lambda: process.poll() is not None or any(results.glob("*/result.json")), 600)
        assert process.poll() is None, process.communicate()
        started = family(process.pid)
        assert any("raylet" in command for _, command in started.values())
        os.kill(process.pid, number)
        process.wait(timeout=60)
        assert wait_until(lambda: not living(started), 10), living(started)
    finally:
        process.kill()
        process.communicate()
