"""A search with Ray: chosen on validation, pruned, resumed; its winner is a run like any other."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recbole_siger.common.files import write_text
from recbole_siger.common.locks import LOCK, locked
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.errors import UserError
from recbole_siger.quick_start import run_experiment
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.campaign import RunSpec, complete_runs
from recbole_siger.tuning import search as search_module
from recbole_siger.tuning import tune_model
from recbole_siger.tuning.request import Request
from recbole_siger.tuning.shared import SharedDataset
from recbole_siger.tuning.trial import SCORE
from tests.toy import write_dataset

Settings = Callable[..., dict[str, Any]]

pytestmark = pytest.mark.xdist_group("ray")


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def staged(curves: dict[int, list[float]], explode: tuple[int, ...] = ()) -> Any:
    """Return a trial that trains nothing and reports the curve of its ``n_ui_layers``."""

    def trial(sampled: dict[str, Any], plan: Any, shared: Any) -> None:
        from ray import tune

        curve = curves[sampled["trial"]["point"]["n_ui_layers"]]
        config = Config(config_dict=plan.values)
        features = shared.with_config(config).item_features()["image"]
        maps = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        spans = [([int(end, 16) for end in words[0].split("-")], words[1]) for words in maps]
        (access,) = (a for (low, high), a in spans if low <= features.data_ptr() < high)
        for epoch, score in enumerate(curve):
            if sampled["trial"]["point"]["n_ui_layers"] in explode:
                raise RuntimeError("it went\nwrong here")
            facts = {"best_epoch": epoch, "epochs": epoch + 1, "seconds": 0.0}
            finished = epoch + 1 == len(curve)
            tune.report({SCORE: score, **facts, "finished": finished, "access": access})

    return trial


def stage(monkeypatch: pytest.MonkeyPatch, trial: Any) -> None:
    monkeypatch.setattr(search_module, "run_trial", trial)
    monkeypatch.setattr(search_module._Search, "finish", lambda self: {})


LINUX = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="looks into Linux's /proc")


@pytest.mark.slow
@LINUX
@pytest.mark.usefixtures("ray_here")
def test_a_search_whose_points_were_all_stopped_finishes_the_best(
    workdir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler that stops every trial stands for ASHA, which stops each point with another seed."""
    from ray.tune.schedulers import FIFOScheduler, TrialScheduler

    class Stopping(FIFOScheduler):
        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            return str(TrialScheduler.STOP)

    curves = {1: [0.1, 0.2, 0.3], 2: [0.2, 0.3, 0.4]}
    stage(monkeypatch, staged(curves))
    original = search_module._Search._scheduler
    monkeypatch.setattr(
        search_module._Search, "_scheduler", lambda self: Stopping() if self._prunes else original(self)
    )
    options = {key: str(value) for key, value in settings(epochs=9).items()}
    tune_model(
        "SIGER", "toy", options=options, space=["n_ui_layers=1,2"], seeds=2, out="out", max_concurrent=1
    )
    states = {(row["n_ui_layers"], row["seed"]): row["state"] for row in rows_of(Path("out"))}
    assert [states["1", seed] for seed in ("7", "8")] == ["pruned", "pruned"]
    assert [states["2", seed] for seed in ("7", "8")] == ["finished", "finished"]


@pytest.mark.parametrize("name", ["trials.csv", "notes.txt"])
def test_a_folder_of_the_user_is_no_folder_of_a_search(name: str, workdir: Path, settings: Settings) -> None:
    Path("out").mkdir()
    Path("out", name).write_text("mine")
    options = {key: str(value) for key, value in settings(epochs=9).items()}
    with pytest.raises(UserError, match=f"^out: has files that are not of a search, such as {name};"):
        tune_model("BPR", "toy", options=options, space=["learning_rate=0.1,0.2"], out="out")
    assert Path("out", name).read_text() == "mine"


@LINUX
@pytest.mark.usefixtures("ray_here")
def test_asha_stops_what_lags_behind(
    workdir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, a good one first: whatever is behind it at epoch 2 trains no further."""
    stage(monkeypatch, staged({3: [0.5] * 10, 1: [0.1] * 10, 2: [0.6] * 10}))
    options, space = settings(epochs=10), ["n_ui_layers=3,1,2"]
    asha = {"grace_epochs": 2, "reduction_factor": 2, "max_concurrent": 1}
    tune_model("SIGER", "toy", options=options, space=space, out="out", **asha)
    told = {row["n_ui_layers"]: (row["state"], int(row["epochs"])) for row in rows_of(Path("out"))}
    assert told == {"3": ("finished", 10), "1": ("pruned", 2), "2": ("finished", 10)}


def by_seed(curves: dict[tuple[int, int], list[float]]) -> Any:
    """Return a trial that trains nothing and reports the curve of its ``n_ui_layers`` and its seed."""

    def trial(sampled: dict[str, Any], plan: Any, shared: Any) -> None:
        from ray import tune

        one = sampled["trial"]
        curve = curves[one["point"]["n_ui_layers"], one["seed"]]
        for epoch, score in enumerate(curve):
            facts = {"best_epoch": epoch, "epochs": epoch + 1, "seconds": 0.0}
            tune.report({SCORE: score, **facts, "finished": epoch + 1 == len(curve)})

    return trial


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_the_seeds_of_a_point_are_pruned_together(
    workdir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With seed 8, a point that ASHA would stop is trained on, and a stopped point is not trained at all."""
    scores = {(3, 7): 0.5, (3, 8): 0.1, (1, 7): 0.1, (1, 8): 0.9, (2, 7): 0.6, (2, 8): 0.2}
    stage(monkeypatch, by_seed({key: [score] * 10 for key, score in scores.items()}))
    options, space = settings(epochs=10), ["n_ui_layers=3,1,2"]
    asked = {"grace_epochs": 2, "reduction_factor": 2, "max_concurrent": 1, "seeds": 2, "out": "out"}
    tune_model("SIGER", "toy", options=options, space=space, **asked)
    found = {
        (int(row["n_ui_layers"]), int(row["seed"])): (row["state"], int(row["epochs"]), row["reason"])
        for row in rows_of(Path("out"))
    }
    whole = ("finished", 10, "")
    assert {key: found[key] for key in found if key[0] != 1} == dict.fromkeys(
        [(3, 7), (3, 8), (2, 7), (2, 8)], whole
    )
    assert found[1, 7] == ("pruned", 2, "")
    assert found[1, 8] == ("pruned", 0, "not trained: seed 7 of this point was pruned")
    told = Path("out/tune.log").read_text()
    assert "seed 7 is done; 2 trials with other seeds are left" in told

    before = Path("out/trials.csv").read_text()
    tune_model("SIGER", "toy", options=options, space=space, **asked, resume=True)
    assert Path("out/trials.csv").read_text() == before
    assert len(list(Path("out/ray").glob("session-*"))) == 2  # one for each of the two parts; none more


@LINUX
@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_failed_trial_is_a_row_and_features_are_shared(
    workdir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(monkeypatch, staged({1: [0.1, 0.2], 2: [0.3, 0.3]}, explode=(1,)))
    options, space = settings(epochs=2), ["n_ui_layers=1,2"]
    tune_model("SIGER", "toy", options=options, space=space, scheduler="none", out="out")
    best, failed = rows_of(Path("out"))
    assert (best["state"], best["valid_recall@5"], failed["state"]) == ("finished", "0.3", "failed")
    assert failed["reason"] == "RuntimeError: it went wrong here"
    lines = [json.loads(line) for file in Path("out/ray").rglob("result.json") for line in file.open()]
    assert {line["access"][-1] for line in lines} == {"s"}  # memory shared with Ray's store, not a copy


def killed(sampled: dict[str, Any], plan: Any, shared: Any) -> None:
    """Be a trial whose worker is killed, as the system does where memory ends; the other one is not."""
    if sampled["trial"]["point"]["n_ui_layers"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    staged({2: [0.3]})(sampled, plan, shared)


@pytest.mark.slow
@LINUX
@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_is_a_failed_row(
    workdir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage(monkeypatch, killed)
    asked = {"space": ["n_ui_layers=1,2"], "scheduler": "none", "max_concurrent": 1, "out": "out"}
    tune_model("SIGER", "toy", options=settings(epochs=1), **asked)
    best, failed = rows_of(Path("out"))
    assert (best["state"], failed["state"]) == ("finished", "failed")
    assert "died" in failed["reason"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_trials_read_no_data_file(
    tmp_path: Path, workdir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a node that has none: dataset and features come out of Ray's object store."""

    def shared_alone(dataset: MultimodalDataset) -> SharedDataset:
        (tmp_path / "data").rename(tmp_path / "elsewhere")
        return SharedDataset(dataset)

    monkeypatch.setattr(search_module, "SharedDataset", shared_alone)
    monkeypatch.setattr(search_module._Search, "finish", lambda self: {})
    options = settings(epochs=2)
    tune_model("SIGER", "toy", options=options, space=["co_weight=0.1,0.3"], scheduler="none", out="out")
    assert [(row["state"], row["reason"]) for row in rows_of(Path("out"))] == [("finished", "")] * 2


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"metric": "recal@5"}, "valid_metric='recal@5' is not among metrics x topk: Recall@3, Recall@5"),
        ({"metric": "ndcg@5"}, "command line: --metric=ndcg@5 replaces --valid_metric=Recall@5; keep one"),
        ({"options": {"run_dir": "x"}}, "command line: run_dir='x': each run gets its own folder; use --out"),
        ({"seeds": "1000000000"}, "--seeds=1000000000: at most 1,000 seeds"),
        ({"options": {"nproc": 2}}, "nproc: a trial is one process; remove nproc"),
        ({"options": {"eval_step": 0}}, "eval_step=0: a trial is judged by its validations; set it to a"),
        ({"options": {"epochs": 3, "eval_step": 4}}, "eval_step=4: .* a number from 1 to 3, the number of"),
        ({"search": "random"}, "--search=random requires --num_samples"),
        ({"cpus_per_trial": 0}, r"cpus_per_trial=0: expected a number in \(0, inf\)"),
        ({"resume": True}, "out: has no search to resume"),
    ],
)
def test_bad_input_leaves_nothing(
    workdir: Path, settings: Settings, asked: dict[str, Any], complaint: str
) -> None:
    options = {**settings(), **asked.pop("options", {})}
    with pytest.raises(UserError, match=complaint):
        tune_model("SIGER", "toy", options=options, space=["co_weight=0.1,0.3"], out="out", **asked)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ("data", r"^out: the data changed since the first session: toy\.\w+\.npy; restore the data, or"),
        ("version", "^out: the search has version='0.0.1', not "),
        ("lock", "^out: another process runs this search; wait"),
    ],
)
def test_a_search_is_resumed_on_its_data_by_one_process(
    workdir: Path, settings: Settings, change: str, complaint: str
) -> None:
    options, space = settings(), ["co_weight=0.1,0.3"]
    search = search_module._Search(Request("SIGER", "toy", (), options, None, tuple(space), 1, "out", {}))
    request = search._request() | ({"version": "0.0.1"} if change == "version" else {})
    write_text(Path("out/request.json"), json.dumps(request))
    if change == "data":
        file = next(Path(search.config["data_path"]).glob("*.npy"))
        np.save(file, np.load(file) + 1)
    busy = locked(Path("out", LOCK), "busy") if change == "lock" else nullcontext()
    with busy, pytest.raises(UserError, match=complaint):
        tune_model("SIGER", "toy", options=options, space=space, out="out", resume=True)


@pytest.mark.usefixtures("ray_here")
def test_a_trial_that_no_node_holds_is_refused(workdir: Path, settings: Settings) -> None:
    complaint = "--cpus_per_trial=3 --gpus_per_trial=0: a process requires 3 CPU on one node"
    with pytest.raises(UserError, match=complaint):
        tune_model("SIGER", "toy", options=settings(), space=["co_weight=0.1"], out="out", cpus_per_trial=3)
    assert not Path("out").exists()


def write_contrary(root: Path) -> None:
    """Two groups of users and items; validation items are of one's own group, test items of the other."""
    splits: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for user in range(44):
        group = user % 2
        own = [f"g{group}i{(user * 7 + 3 * n) % 17}" for n in range(9)]
        own = list(dict.fromkeys(own))
        splits["train"] += [(f"u{user}", item) for item in own[:-2]]
        splits["valid"] += [(f"u{user}", item) for item in own[-2:]]
        splits["test"] += [(f"u{user}", f"g{1 - group}i{(user * 5 + n) % 17}") for n in range(2)]
    write_dataset(root, "contrary", splits)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_validation_chooses_where_test_would_choose_otherwise(tmp_path: Path, workdir: Path) -> None:
    """Learning the groups is right for validation and wrong for test; the learner wins, and is told so."""
    write_contrary(tmp_path / "data")
    options = {"data_path": str(tmp_path / "data"), "gpu_id": "", "seed": 7, "epochs": 30, "topk": [5]}
    options |= {"embedding_size": 16, "train_batch_size": 32, "valid_metric": "Recall@5", "stopping_step": 40}
    asked = {"options": options, "space": ["learning_rate=1e-7,0.02"], "scheduler": "none", "out": "an out"}
    asked |= {"metric": "recall@5"}
    found = tune_model("BPR", "contrary", **asked)
    assert found["best"]["values"] == {"learning_rate": 0.02}
    other = run_experiment(
        "BPR", "contrary", config_dict={**options, "learning_rate": 1e-7, "run_dir": "other"}
    )
    assert other["test"]["recall@5"] > found["best"]["test"]["recall@5"]
    assert other["valid"]["recall@5"] < found["best"]["valid"]

    # The winner is a run folder with results, and its options make the same run again.
    kept = json.loads(Path("an out/best-seed7/results.json").read_text())
    assert kept["test"] == found["best"]["test"]
    assert yaml.safe_load(Path("an out/best.yaml").read_text())["learning_rate"] == 0.02
    command = Path("an out/best.yaml").read_text().splitlines()[1].removeprefix("# ")
    assert shlex.split(command)[-1] == "--config_files=an out/best.yaml"
    same = {key: options[key] for key in ("data_path", "gpu_id", "seed")}
    again = run_experiment("BPR", "contrary", ["an out/best.yaml"], {**same, "run_dir": "again"})
    assert {key: again[key] for key in ("valid", "test", "best_epoch", "protocol_id")} == {
        key: kept[key] for key in ("valid", "test", "best_epoch", "protocol_id")
    }
    assert found["protocol_id"] == kept["protocol_id"]
    assert found["trials"] == {"finished": 2}
    assert "test" not in "".join(path.read_text() for path in Path("an out/ray").rglob("result.json"))
    assert {path.name for path in Path("an out").iterdir()} >= {"trials.csv", "search.json", "parallel.png"}

    with pytest.raises(UserError, match="has a search; continue it with --resume, or choose another --out"):
        tune_model("BPR", "contrary", **asked)
    with pytest.raises(UserError, match="the search has epochs=30, not 31"):
        tune_model("BPR", "contrary", **{**asked, "options": {**options, "epochs": 31}}, resume=True)
    with pytest.raises(UserError, match=r"the search has space=.*0\.02.*, not .*0\.03"):
        tune_model("BPR", "contrary", **{**asked, "space": ["learning_rate=1e-7,0.03"]}, resume=True)
    # Resuming what is over trains nothing and tells the same.
    before = Path("an out/trials.csv").read_text()
    assert tune_model("BPR", "contrary", **asked, resume=True) == found
    assert Path("an out/trials.csv").read_text() == before
    assert [path.name for path in Path("an out/ray").glob("session-*")] == ["session-1"]

    # `compare` takes the winner where that configuration is asked for.
    shutil.copytree("an out/best-seed7", "runs/contrary/tune-BPR/best-seed7")
    spec = RunSpec("BPR", "contrary", 7, {**options, "learning_rate": 0.02})
    (reused,) = complete_runs([spec])
    assert isinstance(reused, RunFolder)
    assert reused.path == Path("runs/contrary/tune-BPR/best-seed7")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize("search", ["random", "bayes"])
def test_points_drawn_from_ranges(tmp_path: Path, workdir: Path, search: str) -> None:
    if search == "bayes":
        pytest.importorskip("optuna")
    write_contrary(tmp_path / "data")
    options = {"data_path": str(tmp_path / "data"), "gpu_id": "", "epochs": 2, "topk": [5]}
    options |= {"embedding_size": 4, "train_batch_size": 64, "valid_metric": "Recall@5"}
    space = ["learning_rate={low: 1e-4, high: 0.1, log: true}", "embedding_size=4,8"]
    found = tune_model(
        "BPR", "contrary", options=options, space=space, search=search, num_samples=2, out="out"
    )
    rows = rows_of(Path("out"))
    assert len(rows) == 2
    assert all(1e-4 <= float(row["learning_rate"]) <= 0.1 and row["state"] == "finished" for row in rows)
    assert found["best"]["valid"] == max(float(row["valid_recall@5"]) for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_bayes_tries_a_small_space_once(tmp_path: Path, workdir: Path) -> None:
    pytest.importorskip("optuna")
    write_contrary(tmp_path / "data")
    options = {"data_path": str(tmp_path / "data"), "gpu_id": "", "epochs": 1, "topk": [5]}
    options |= {"train_batch_size": 64, "valid_metric": "Recall@5"}
    asked = {"options": options, "space": ["embedding_size=4,8"], "search": "bayes", "out": "out"}
    found = tune_model("BPR", "contrary", num_samples=6, **asked)
    assert found["trials"] == {"finished": 2}
    assert tune_model("BPR", "contrary", num_samples=6, **asked, resume=True) == found


def test_optuna_is_asked_for_where_it_is_missing(
    workdir: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"requires Optuna: pip install 'recbole-siger\[bayes\]'"):
        search_module.check_searcher("bayes")


# ---- in processes of their own


def command(folder: Path, *words: str) -> list[str]:
    options = ["--gpu_id=", "--topk=[5]", "--valid_metric=Recall@5", "--embedding_size=16", "--out=out"]
    return [
        *(sys.executable, "-m", "recbole_siger.cli", "tune", "--model=LightGCN", "--dataset=contrary"),
        *(f"--data_path={folder}", "--train_batch_size=4", "--checkpoint_interval=0", "--scheduler=none"),
        *("--set=n_layers=1,2,3", "--max_concurrent=1", *options, *words),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_search_goes_on(tmp_path: Path, workdir: Path, sign: signal.Signals) -> None:
    write_contrary(tmp_path / "data")
    words = command(tmp_path / "data", "--epochs=40", "--stopping_step=40")
    process = subprocess.Popen(words, start_new_session=True, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 600

    def epochs() -> list[int]:
        """Count those of each trial that has begun; trials.csv is written too seldom to be looked at."""
        files = Path("out/ray").glob("session-*/*/result.json")  # no deeper: checkpoints come and go
        return sorted(len(file.read_text().splitlines()) for file in files)

    while len(told := epochs()) < 2 or told[0] < 5:  # the first has finished, the second trains
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(process.pid, sign)
    _, complaint = process.communicate(timeout=600)
    if sign == signal.SIGINT:
        assert process.returncode == 130
        assert "--resume" in complaint
        assert "Traceback" not in complaint
    subprocess.run([*words, "--resume"], check=True, timeout=600)
    assert {(row["state"], row["epochs"]) for row in rows_of(Path("out"))} == {("finished", "40")}
    logs = {file.parent.parent.name: file.read_text() for file in Path("out/ray/session-2").rglob("run.log")}
    begun = [text.count("LightGCN on contrary") for text in logs.values()]
    assert sorted(begun) == [1, 1, 2]  # one was finished, one was taken up again, one began
    found = json.loads(Path("out/search.json").read_text())
    straight = run_experiment(
        "LightGCN", "contrary", ["out/best.yaml"], {"data_path": str(tmp_path / "data"), "gpu_id": ""}
    )
    assert straight["test"] == found["best"]["test"]  # as if it had never been interrupted


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """A head and a worker of one processor each on this machine: their address, and what clients must set."""
    pytest.importorskip("ray")
    ray, port = Path(sys.executable).with_name("ray"), 26379
    secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    # Without the last one, gRPC now and then kills what the head forks for a client (docs/cluster.md).
    switches = {"RAY_USAGE_STATS_ENABLED": "0", "GRPC_ENABLE_FORK_SUPPORT": "0"}
    environment = {**os.environ, **secret, **switches}
    # One that is started is awaited before the next; --block, so that only these two are ended again.
    nodes, logs = [], []
    for words in (
        ["--head", f"--port={port}", "--include-dashboard=false", "--ray-client-server-port=26001"],
        [f"--address=127.0.0.1:{port}"],
    ):
        log = tmp_path / f"node-{len(nodes)}.log"
        command = [ray, "start", *words, "--num-cpus=1", "--disable-usage-stats", "--block"]
        with log.open("w") as stream:
            nodes.append(subprocess.Popen(command, env=environment, stdout=stream, stderr=stream))
        logs.append(log)
        deadline = time.monotonic() + 600
        while "Ray runtime started" not in log.read_text():
            assert nodes[-1].poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
    yield f"127.0.0.1:{port}", environment
    for node in reversed(nodes):
        node.terminate()
        node.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("client", [False, True], ids=["driver on the head", "ray client"])
def test_two_nodes_share_a_search(
    tmp_path: Path, workdir: Path, two_nodes: tuple[str, dict[str, str]], *, client: bool
) -> None:
    """Both nodes train, whoever asks."""
    if client:
        pytest.importorskip("grpc")
    write_contrary(tmp_path / "data")
    address = "ray://127.0.0.1:26001" if client else two_nodes[0]
    words = [word for word in command(tmp_path / "data", "--epochs=8") if "max_concurrent" not in word]
    words.remove("--out=out")
    done = subprocess.run(
        [*words, "--out=out", f"--address={address}"],
        timeout=600,
        env=two_nodes[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Ray: 2 nodes, 2 CPU" in done.stdout
    assert {row["state"] for row in rows_of(Path("out"))} == {"finished"}
    lines = [json.loads(file.read_text().splitlines()[-1]) for file in Path("out/ray").rglob("result.json")]
    assert len({line["node"] for line in lines}) == 2
    assert json.loads(Path("out/search.json").read_text())["trials"] == {"finished": 3}
    for told in (done.stdout, Path("out/tune.log").read_text()):  # the caller hears of each trial
        assert all(f"[{number}/3] finished after 8 epochs" in told for number in (1, 2, 3))
    # Two CPUs, but not on one node.
    vast = subprocess.run(
        [*words, "--out=vast", "--cpus_per_trial=2", f"--address={address}"],
        timeout=600,
        env=two_nodes[1],
        capture_output=True,
        text=True,
    )
    assert vast.returncode == 2
    assert "there is room for 0 of 1 (Ray: 2 nodes, 2 CPU, 0 GPU)" in vast.stderr
    assert not Path("vast").exists()
