"""Two processes train as one with twice the batch, and rank each user once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.quick_start import evaluate_run, run_experiment
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import build_experiment
from tests.toy import QUIET, write_toy

pytestmark = pytest.mark.xdist_group("ray")

# The toy's 161 rows do not divide: the last batch has 33, of which one process has a row more.
MODELS: dict[str, dict[str, Any]] = {
    "SIGER": {},
    "MGCN": {"contrast_dedup": True},
    "FREEDOM": {"feature_weight": 1e-3},
    "LATTICE": {},
    "DiffMM": {"hidden_size": 11, "denoise_batch": 15, "n_generated": 2},
    "RLMRec": {"backbone": "sgl", "align_weight": 0.1},
    "SLMRec": {},
    "LGMRec": {"cl_weight": 0.01},
    "DAMRS": {"n_discriminated": 3, "neighbor_weight": 0.1},
    "LightGCN": {"clip_grad_norm": {"max_norm": 0.01}},
    "BPR": {"metrics": ["Recall", "NDCG", "GAUC", "ItemCoverage"]},
}


def train(model: str, folder: Path, batch: int, name: str, **options: Any) -> dict[str, Any]:
    values = {**QUIET, "data_path": str(folder / "data"), "embedding_size": 8, "epochs": 3}
    values |= {"topk": [3, 5], "valid_metric": "Recall@5", "train_batch_size": batch, "eval_batch_size": 4}
    config = Config(model, "toy", config_dict={**values, **MODELS[model], **options})
    experiment = build_experiment(config, RunFolder.create(folder / name))
    experiment.begin()
    found = experiment.train()
    losses = [row["loss"] for row in experiment.run.read_metrics()]
    users = experiment.run.read_users()
    return {
        "losses": losses,
        "names": list(found["test"]),
        "metrics": [*found["valid"].values(), *found["test"].values(), *found["test_beyond"].values()],
        "users": users["user_id"].tolist(),
        "per_user": users["recall@5"].tolist(),
        "slices": found["slices"],
    }


def work(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    told = {model: train(model, folder, 32, f"{model}-{rank}") for model in MODELS}
    (folder / f"told-{rank}.json").write_text(json.dumps(told))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    write_toy(folder / "data")
    mp.spawn(work, args=(folder,), nprocs=2)
    return folder, [json.loads((folder / f"told-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_two_processes_are_one_with_twice_the_batch(
    model: str, by_two: tuple[Path, list[dict[str, Any]]]
) -> None:
    folder, told = by_two
    alone = json.loads(json.dumps(train(model, folder, 64, f"{model}-alone")))
    half = train(model, folder, 32, f"{model}-half")
    for two in (told[0][model], told[1][model]):
        assert len(two["losses"]) == len(alone["losses"]) == 3
        for mine, theirs, other in zip(two["losses"], alone["losses"], half["losses"], strict=True):
            assert mine == pytest.approx(theirs, rel=2e-4)
            assert other != pytest.approx(theirs, rel=2e-4)  # half the batch would be something else
        assert two["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)
        assert two["users"] == alone["users"]  # each once, in the same order
        assert two["per_user"] == pytest.approx(alone["per_user"])
        assert two["slices"] == alone["slices"]
    assert told[0][model] == told[1][model]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_a_run_with_nproc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Train starts the processes; the run folder is one like any other."""
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path / "data")
    options = {**QUIET, "data_path": "data", "embedding_size": 8, "topk": [5], "valid_metric": "Recall@5"}
    options |= {"epochs": 6, "train_batch_size": 32, "eval_batch_size": 4, "checkpoint_interval": 0.0}
    two = run_experiment("SIGER", "toy", config_dict={**options, "nproc": 2, "run_dir": "two"})
    one = run_experiment("SIGER", "toy", config_dict={**options, "train_batch_size": 64, "run_dir": "one"})
    assert two["test"] == pytest.approx(one["test"], rel=1e-6)
    assert evaluate_run("two") == pytest.approx(two["test"], rel=1e-6)
    losses = [row["loss"] for row in RunFolder("two").read_metrics()]
    for mine, theirs in zip(losses, RunFolder("one").read_metrics(), strict=True):
        assert mine == pytest.approx(theirs["loss"], rel=2e-4)
    with pytest.raises(UserError, match="nproc='x': expected an integer"):
        run_experiment("SIGER", "toy", config_dict={**options, "nproc": "x"})
    broken = {**options, "nproc": 2, "learning_rate": 1e30, "run_dir": "broken"}
    with pytest.raises(UserError, match="processes: training stopped in epoch"):
        run_experiment("SIGER", "toy", config_dict=broken)


@pytest.mark.slow
def test_an_interrupted_run_with_nproc_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if it had never been interrupted."""
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path / "data")
    options = {"data_path": "data", "nproc": 2, "epochs": 40, "stopping_step": 40, "checkpoint_interval": 0}
    options |= {"gpu_id": "", "embedding_size": 8, "topk": "[5]", "eval_batch_size": 4}
    options |= {"valid_metric": "Recall@5", "train_batch_size": 16}
    words = [f"--{key}={value}" for key, value in options.items()]
    command = [sys.executable, "-m", "recbole_siger.cli"]
    run = [*command, "run", "--model=SIGER", "--dataset=toy", *words, "--run_dir=cut"]
    process = subprocess.Popen(run, start_new_session=True, stdout=subprocess.DEVNULL)
    metrics, deadline = Path("cut/metrics.jsonl"), time.monotonic() + 600
    while not metrics.exists() or len(metrics.read_text().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=600) == 130
    assert not Path("cut/results.json").exists()
    subprocess.run([*command, "resume", "cut"], check=True, timeout=600, stdout=subprocess.DEVNULL)
    assert "/cut at epoch" in Path("cut/run.log").read_text()
    subprocess.run([*run[:-1], "--run_dir=whole"], check=True, timeout=600, stdout=subprocess.DEVNULL)
    cut, whole = RunFolder("cut"), RunFolder("whole")
    losses = [[row["loss"] for row in one.read_metrics()] for one in (cut, whole)]
    assert losses[0] == losses[1]
    assert cut.read_results()["test"] == whole.read_results()["test"]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_here")
def test_more_processes_than_cores_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_toy(tmp_path / "data")
    complaint = "nproc=3: a process requires 1 CPU on one node, and there is room for 2 of 3"
    with pytest.raises(UserError, match=complaint):
        run_experiment(
            "SIGER", "toy", config_dict={**QUIET, "data_path": "data", "nproc": 3, "run_dir": "out"}
        )
    assert not Path("out").exists()
