"""Training, evaluation and search on a GPU, in three minutes: ``pytest -m gpu tests/gpu``.

With ``RECBOLE_SIGER_TEST_DEVICE=cpu`` the same tests run on the CPU, which checks the tests themselves. Tests
of CUDA alone are skipped there.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_siger.common.machine import processor_name
from recbole_siger.config import Config
from recbole_siger.evaluation.metrics import Ranking
from recbole_siger.model.device import CUDA, force_choices
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.quick_start import run_experiment
from recbole_siger.registry import MODELS
from recbole_siger.runs.folder import RunFolder
from recbole_siger.testing.dispatch import training_step
from recbole_siger.testing.experiments import start_epoch, tensors_of
from recbole_siger.training.evaluator import RankingCollector
from recbole_siger.training.experiment import Experiment, build_experiment, config_of_run
from recbole_siger.training.memory import MIB, estimate
from recbole_siger.training.settings import run_settings
from recbole_siger.training.timing import time_run
from recbole_siger.tuning import tune_model
from tests.conftest import first_batch, make_experiment, score_table
from tests.contract.test_models import ACROSS_DEVICES

DEVICE = os.environ.get("RECBOLE_SIGER_TEST_DEVICE", "cuda")
IS_CUDA = DEVICE == "cuda"
CARD: dict[str, Any] = {"gpu_id": "0" if IS_CUDA else "", "cache_dir": "none"}
CPU: dict[str, Any] = {"gpu_id": "", "cache_dir": None}  # the folder of the tests
TRAINED = [*MODELS, "LightGCN"]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.xdist_group("gpu"),
    pytest.mark.skipif(IS_CUDA and not torch.cuda.is_available(), reason="no CUDA device"),
]
cuda_only = pytest.mark.skipif(not IS_CUDA, reason="a test of CUDA alone")


def two(tmp_path: Path, model: str, **options: Any) -> tuple[Experiment, Experiment]:
    """Build a model on the CPU and on the device, with equal parameters and without noise."""
    values = {**ACROSS_DEVICES.get(model, {}), **options}
    there, here = (make_experiment(tmp_path, model, **{**values, **card}) for card in (CARD, CPU))
    assert next(there.model.parameters()).device.type == DEVICE
    there.model.load_state_dict(here.model.state_dict())
    return here, there


def choices_of(experiment: Experiment) -> AbstractContextManager[None]:
    """Force the choices of CUDA for a model that is on the CPU in place of a GPU."""
    is_card = not IS_CUDA and experiment.config["cache_dir"] == CARD["cache_dir"]
    return force_choices(CUDA) if is_card else nullcontext()


def trained(experiment: Experiment) -> tuple[list[Any], dict[str, Any], dict[str, Tensor]]:
    """Train; return what a run records of losses and validation, its results and its parameters."""
    experiment.begin()
    with choices_of(experiment):
        results = experiment.train()
    rows = [(row["loss"], row["valid"]) for row in experiment.run.read_metrics()]
    state = {name: value.cpu() for name, value in experiment.model.state_dict().items()}
    return rows, {key: results[key] for key in ("valid", "test", "best_epoch")}, state


def assert_same_training(one: Any, other: Any) -> None:
    assert one[:2] == other[:2]
    for name, value in one[2].items():
        assert torch.equal(value, other[2][name]), name


def close(value: Tensor, expected: Tensor, what: str, scale: float | None = None) -> None:
    """Compare to 1e-5 of a scale, by default the largest number of the expected tensor."""
    scale = float(expected.abs().max()) if scale is None else scale
    worst = float((value.cpu() - expected.cpu()).abs().max())
    assert worst <= 1e-5 * scale, f"{what}: {worst:.2e} of {scale:.2e}"


# ---- numbers of the CPU


def graphs(experiment: Experiment) -> dict[str, Sequence[Tensor]]:
    """Return the index and the value tensors of each graph of a model."""
    found: dict[str, Sequence[Tensor]] = {}
    for name, module in experiment.model.named_modules():
        if isinstance(module, SparseMatrix):
            found[name] = tuple(
                x.cpu() for factor in module.pair() for x in (factor.crow, factor.col, factor.val)
            )
    for name, value in tensors_of(experiment.model).items():
        if value.layout == torch.sparse_coo:
            matrix = value.detach().cpu().coalesce()
            found[name] = (*matrix.indices(), matrix.values())
    return found


@pytest.mark.parametrize("model", MODELS)
def test_graphs_are_those_of_the_cpu_to_the_last_edge(model: str, tmp_path: Path) -> None:
    here, there = map(graphs, two(tmp_path, model))
    assert here.keys() == there.keys()
    for name, arrays in here.items():
        for one, other in zip(arrays, there[name], strict=True):
            if one.is_floating_point():
                torch.testing.assert_close(other, one, rtol=1e-6, atol=0, msg=name)
            else:
                assert torch.equal(one.long(), other.long()), name


@pytest.mark.parametrize("model", TRAINED)
def test_losses_and_gradients_are_those_of_the_cpu(model: str, tmp_path: Path) -> None:
    here, there = two(tmp_path, model)
    batch = first_batch(here)
    if model in MODELS:
        start_epoch(here)
        start_epoch(there)
        there.model.load_state_dict(here.model.state_dict())  # auxiliary steps draw numbers of the device
    losses = []
    for experiment, device in ((here, "cpu"), (there, DEVICE)):
        experiment.model.train()
        with run_settings(experiment.config), choices_of(experiment):
            terms = experiment.model.calculate_loss(batch.to(device))
            terms = terms if isinstance(terms, tuple) else (terms,)
            total = torch.stack([term.reshape(()) for term in terms])
            total.sum().backward()
        losses.append(total.detach())
    torch.testing.assert_close(losses[1].cpu(), losses[0], rtol=1e-5, atol=1e-6)
    gradients = {name: p.grad for name, p in there.model.named_parameters()}
    # Relative to the largest gradient of the model: sums that cancel have no digits of their own.
    largest = max(float(p.grad.abs().max()) for p in here.model.parameters() if p.grad is not None)
    for name, parameter in here.model.named_parameters():
        assert (parameter.grad is None) is (gradients[name] is None), name
        if parameter.grad is not None:
            close(gradients[name], parameter.grad, f"gradient of {name}", scale=largest)


@pytest.mark.parametrize("model", TRAINED)
def test_scores_and_metrics_are_those_of_the_cpu(model: str, tmp_path: Path) -> None:
    here, there = two(tmp_path, model)
    with choices_of(there):
        scores = score_table(there)
    close(scores, score_table(here), "scores")
    found = []
    for experiment in (here, there):
        experiment.trainer.eval_collector.data_collect(experiment.train_data)
        found.append(
            [experiment.trainer.evaluate(x, load_best_model=False) for x in experiment.loaders()[1:]]
        )
    assert found[1] == [pytest.approx(one, abs=1e-6) for one in found[0]]


def test_batches_are_those_of_the_cpu(tmp_path: Path) -> None:
    epochs = []
    for card in (CPU, CARD):
        experiment = make_experiment(tmp_path, "SIGER", **card)
        epochs.append([batch for _ in range(2) for batch in experiment.train_data])
    for mine, yours in zip(*epochs, strict=True):
        assert all(value.device.type == DEVICE for value in yours.interaction.values())
        for name, value in mine.interaction.items():
            assert torch.equal(value, yours[name].cpu()), name


# ---- the same training again


@pytest.mark.parametrize("model", TRAINED)
def test_one_seed_trains_the_same_bits(model: str, tmp_path: Path) -> None:
    assert_same_training(*(trained(make_experiment(tmp_path, model, **CARD)) for _ in range(2)))


def interrupted(experiment: Experiment, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train until an epoch is finished and its checkpoint is written."""
    finish = experiment.trainer._finish_epoch

    def stop() -> None:
        finish()
        if experiment.trainer._epoch == epoch:
            raise KeyboardInterrupt

    experiment.begin()
    monkeypatch.setattr(experiment.trainer, "_finish_epoch", stop)
    with choices_of(experiment), pytest.raises(KeyboardInterrupt):
        experiment.train()


@pytest.mark.parametrize("model", ["SIGER", "LATTICE", "FREEDOM", "LightGCN"])
@pytest.mark.parametrize("compiled", ["none", "auto"])
def test_a_resumed_training_has_the_same_bits(
    model: str, compiled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"epochs": 4, "checkpoint_interval": 0, "compile": compiled, **CARD}
    whole = trained(make_experiment(tmp_path, model, **options))
    broken = make_experiment(tmp_path, model, **options)
    interrupted(broken, 1, monkeypatch)
    torch.rand(17, device=DEVICE)  # the process that resumes has another random state
    resumed = build_experiment(config_of_run(broken.run, None), broken.run)
    resumed.resume()
    with choices_of(broken):
        results = resumed.train()
    rows = [(row["loss"], row["valid"]) for row in resumed.run.read_metrics()]
    state = {name: value.cpu() for name, value in resumed.model.state_dict().items()}
    found = {key: results[key] for key in ("valid", "test", "best_epoch")}
    if compiled == "none" or not IS_CUDA:
        assert_same_training(whole, (rows, found, state))
        return
    # The first two batches after a start are eager: equal only if both ways run the same kernels.
    for (mine, _), (yours, _) in zip(whole[0], rows, strict=True):
        assert yours == pytest.approx(mine, rel=1e-5, abs=1e-6)


# ---- runs


@pytest.mark.parametrize(("trained_on", "evaluated_on"), [(CARD, CPU), (CPU, CARD)], ids=["card", "cpu"])
def test_a_run_is_evaluated_on_the_other_device(
    trained_on: Mapping[str, Any], evaluated_on: Mapping[str, Any], tmp_path: Path
) -> None:
    experiment = make_experiment(tmp_path, "SIGER", **trained_on)
    experiment.begin()
    results = experiment.train()
    config = config_of_run(experiment.run, None, **{"prepare": None, "gpu_id": evaluated_on["gpu_id"]})
    other = build_experiment(config, experiment.run)
    other.check_data()
    other.trainer.load_model(experiment.run)
    other.trainer.eval_collector.data_collect(other.train_data)
    with run_settings(config):
        assert other.test() == pytest.approx(results["test"], abs=1e-6)


@pytest.mark.parametrize("cold", ["item", "item_few_shot", "user"])
def test_cold_start_metrics_are_those_of_the_cpu(cold: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {"cold_start": {"kind": cold}, "missing_modality": "mean"}
    if cold == "item":
        options["cold_start"] |= {"ratio": 0.3, "candidates": "cold"}
    found = []
    for experiment in two(tmp_path, "VBPR", **options):
        experiment.trainer.eval_collector.data_collect(experiment.train_data)
        found.append(experiment.trainer.evaluate(experiment.test_data, load_best_model=False))
    assert any("[cold]" in name for name in found[0])
    assert found[1] == pytest.approx(found[0], abs=1e-6)


def values_of_run(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    """Return the options of a run on a dataset that is written first."""
    make_experiment(tmp_path, "BPR", **CPU)  # writes the dataset
    small = {
        "data_path": str(tmp_path / "dataset"),
        "embedding_size": 7,
        "topk": [3],
        "valid_metric": "Recall@3",
    }
    return {**small, **CARD, "epochs": 3, "train_batch_size": 16, "eval_batch_size": 4, **changes}


@pytest.mark.usefixtures("ray_on_card")
def test_two_processes_share_a_card(tmp_path: Path) -> None:
    options = values_of_run(tmp_path, noise_eps=0.0)
    pair = run_experiment(
        "SIGER", "toy", config_dict={**options, "nproc": 2, "run_dir": str(tmp_path / "two")}
    )
    alone = {**options, "train_batch_size": 32, "run_dir": str(tmp_path / "one")}
    one = run_experiment("SIGER", "toy", config_dict=alone)
    for mine, theirs in zip(
        *(RunFolder(tmp_path / name).read_metrics() for name in ("two", "one")), strict=True
    ):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=2e-4)
    assert pair["test"] == pytest.approx(one["test"], abs=0.1)


@pytest.mark.usefixtures("ray_on_card")
def test_four_trials_share_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {key: str(value) for key, value in values_of_run(tmp_path).items()}
    monkeypatch.chdir(tmp_path)
    share = 0.25 if IS_CUDA else 0.0
    space = ["learning_rate=0.01,0.02,0.03,0.04"]
    tune_model(
        "BPR", "toy", options=options, space=space, out="out", gpus_per_trial=share, cpus_per_trial=0.5
    )
    assert json.loads(Path("out/search.json").read_text())["trials"] == {"finished": 4}


@pytest.fixture(scope="module")
def ray_on_card() -> Any:
    """Ray of this machine for the tests of this file, with the card if there is one."""
    ray = pytest.importorskip("ray")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


# ---- captured steps, and what a step may not do


@pytest.mark.parametrize("model", TRAINED)
def test_a_captured_step_gives_the_losses_of_an_eager_one(model: str, tmp_path: Path) -> None:
    rows = []
    for compiled in ("none", "auto"):
        experiment = make_experiment(tmp_path, model, compile=compiled, epochs=3, **CARD)
        rows.append(trained(experiment)[0])
    for (mine, _), (yours, _) in zip(*rows, strict=True):
        assert yours == pytest.approx(mine, rel=1e-5, abs=1e-6)


@cuda_only
@pytest.mark.parametrize("model", [name for name in MODELS if name != "DiffMM"])
def test_the_step_is_captured(model: str, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, model, compile="auto", epochs=2, **CARD)
    trained(experiment)
    steps = experiment.trainer.step_graph
    assert steps is not None
    assert steps.reason is None
    assert steps.n_captures >= 1


@cuda_only
@pytest.mark.parametrize("model", MODELS)
def test_a_step_does_not_wait_for_the_gpu(model: str, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, model, **CARD)
    start_epoch(experiment)
    for number, batch in enumerate(list(experiment.train_data)[:4]):
        # The first batches build what is built once.
        torch.cuda.set_sync_debug_mode("error" if number > 1 else "default")
        try:
            with run_settings(experiment.config):
                training_step(experiment.model, batch, experiment.trainer.optimizer)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_hits_are_counted_as_on_the_cpu(tmp_path: Path) -> None:
    make_experiment(tmp_path, "BPR", **CPU)
    rng = np.random.default_rng(5)
    keys = np.unique(np.sort(rng.integers(0, 7, 29)) * 23 + rng.integers(1, 23, 29))
    row, item = (torch.from_numpy(x) for x in np.divmod(keys, 23))
    scores, found = torch.from_numpy(rng.permutation(7 * 23).reshape(7, 23).astype(np.float32)), []
    values = {"data_path": str(tmp_path / "dataset"), "topk": [5], "valid_metric": "Recall@5"}
    for device in ("cpu", DEVICE):
        config = Config("BPR", "toy", config_dict=values)
        collector = RankingCollector(config)
        users = {config["USER_ID_FIELD"]: torch.arange(7, device=device)}
        collector.eval_batch_collect(scores.to(device), users, row.to(device), item.to(device))
        table = collector.get_data_struct().get("rec.topk")
        found.append((table, collector.take_ranking()))
    assert torch.equal(found[0][0], found[1][0])
    rankings: list[Ranking] = [ranking for _, ranking in found if ranking is not None]
    for name in ("users", "items", "pair_row", "pair_item"):
        assert np.array_equal(getattr(rankings[0], name), getattr(rankings[1], name)), name


@pytest.mark.parametrize("model", ["SIGER", "FREEDOM", "LightGCN"])
@pytest.mark.parametrize("compile", ["none", "auto"])
def test_a_run_is_timed_on_its_device(model: str, compile: str, tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, model, train_batch_size=7, compile=compile, **CARD)
    if IS_CUDA:  # those of earlier tests
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
    found = time_run(experiment, 5)
    assert found.device == (torch.cuda.get_device_name() if IS_CUDA else processor_name())
    assert (found.threads is None) is IS_CUDA
    assert len(found.steps) == 5
    assert min(*found.steps, found.seconds_valid) > 0
    assert found.seconds_train > sum(found.steps)
    if IS_CUDA:  # the toy is small, and a process on the CPU has Python and its libraries
        counted = estimate(experiment).peak / MIB
        workspaces = 6 * 32  # of cuBLAS: 32 MiB for each thread and stream that multiplies
        assert counted / 20 < found.peak_mib < 20 * counted + 64 + workspaces
