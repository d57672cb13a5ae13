"""When a step is captured, captured again, trained eagerly; what a graph reads; what a failure leaves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_siger.errors import UserError
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.device import CUDA, force_choices
from recbole_siger.parallel.shares import ALONE, Share
from recbole_siger.registry import MODELS, get_model_class
from recbole_siger.testing.dispatch import StepRecorder
from recbole_siger.training import step_graph
from recbole_siger.training.experiment import Experiment
from recbole_siger.training.settings import run_settings
from recbole_siger.training.step_graph import Recorded, StepGraph, build_step_graph, why_eager
from tests.conftest import make_experiment


class FakeGraphs:
    """Records a step and repeats it by calling it: what a graph does, without a GPU."""

    def __init__(self, *, error: str | None = None, offset: float = 0.0) -> None:
        self.error, self.offset = error, offset
        self.n_warm_ups, self.n_replays = [], 0
        self.generators: list[Sequence[torch.Generator]] = []

    def warm_up(self, step: Callable[[], Tensor], n_steps: int) -> list[Tensor]:
        self.n_warm_ups.append(n_steps)
        return [step() for _ in range(n_steps)]

    def capture(self, step: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Recorded:
        if self.error:
            raise RuntimeError(self.error)
        self.generators.append(generators)
        recorded = Recorded(lambda: None, torch.zeros(0))

        def replay() -> None:
            self.n_replays += 1
            with torch.no_grad():
                recorded.output.resize_(0)
            values = step() + self.offset
            recorded.output.resize_(values.shape).copy_(values)

        return Recorded(replay, recorded.output)

    def random_state(self) -> Tensor:
        return torch.get_rng_state()

    def set_random_state(self, state: Tensor) -> None:
        torch.set_rng_state(state)


Batches = list[list[Any]]


def draw(experiment: Experiment, n_epochs: int) -> Batches:
    """Draw the batches of some epochs: negatives come from numpy's global generator."""
    return [list(experiment.train_data) for _ in range(n_epochs)]


def train(experiment: Experiment, steps: StepGraph | None, epochs: Batches) -> list[list[float]]:
    """Train epochs as the trainer does; return the loss terms of each step."""
    found: list[list[float]] = []
    trainer, model = experiment.trainer, experiment.model
    steps = steps or Eager(model, trainer.optimizer, FakeGraphs())
    with run_settings(experiment.config):
        for epoch, batches in enumerate(epochs):
            trainer._start_epoch(epoch)
            model.train()
            steps.train_epoch(batches, lambda values: found.append(values.tolist()))
    return found


class Eager(StepGraph):
    """The same loop without a graph."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.reason = "for comparison"


def state_of(experiment: Experiment) -> dict[str, Tensor]:
    moments = [x for entries in experiment.trainer.optimizer.state.values() for x in entries.values()]
    return {
        **experiment.model.state_dict(),
        **{f"moment {i}": x for i, x in enumerate(moments)},
        "generator": experiment.model.generator.get_state(),
    }


@pytest.mark.parametrize(
    ("model", "n_captures"),
    [("SIGER", 1), ("FREEDOM", 3), ("LATTICE", 3), ("MGCN", 3)],  # MGCN: another learning rate in each epoch
)
def test_losses_and_parameters_are_those_of_eager_training(
    model: str, n_captures: int, tmp_path: Path
) -> None:
    options = {"lr_decay": 0.5, "lr_decay_epochs": 1} if model == "MGCN" else {}
    eager, captured = (make_experiment(tmp_path, model, **options) for _ in range(2))
    graphs = FakeGraphs()
    steps = StepGraph(captured.model, captured.trainer.optimizer, graphs)
    epochs = draw(eager, 3)
    assert train(captured, steps, epochs) == train(eager, None, epochs)
    assert steps.reason is None
    assert steps.n_captures == n_captures
    for name, value in state_of(eager).items():
        assert torch.equal(value, state_of(captured)[name]), name
    assert len(epochs[0][-1]) < len(epochs[0][0])  # trained eagerly, as are first batches
    n_eager = 2 * (3 if steps.changes_by_epoch else 1) + 3
    assert graphs.n_replays - sum(graphs.n_warm_ups) == 3 * len(epochs[0]) - n_eager
    assert graphs.n_warm_ups == [2] + [1] * (n_captures - 1)
    assert all(generators == [captured.model.generator] for generators in graphs.generators)


class StrictGraphs(FakeGraphs):
    """Fails as a GPU would: if a step that is to be captured waits for a value."""

    def warm_up(self, step: Callable[[], Tensor], n_steps: int) -> list[Tensor]:
        with StepRecorder() as recorder:
            values = super().warm_up(step, n_steps)
        if +recorder.count.waiting:
            raise RuntimeError(f"waits for {dict(recorder.count.waiting)}")
        return values


@pytest.mark.slow
@pytest.mark.parametrize("model", [name for name in MODELS if name != "DiffMM"])
def test_every_model_can_be_captured_with_the_choices_of_a_gpu(model: str, tmp_path: Path) -> None:
    """Losses are those of eager training with the same choices, and a step waits for no value."""
    eager, captured = (make_experiment(tmp_path, model) for _ in range(2))
    steps, epochs = StepGraph(captured.model, captured.trainer.optimizer, StrictGraphs()), draw(eager, 3)
    with force_choices(CUDA):
        assert train(captured, steps, epochs) == train(eager, None, epochs)
    assert steps.reason is None
    assert steps.n_captures >= 1


def test_the_optimizer_is_capturable_in_the_capture_alone(tmp_path: Path) -> None:
    experiment, seen = make_experiment(tmp_path, "VBPR"), []
    optimizer = experiment.trainer.optimizer

    class Graphs(FakeGraphs):
        def capture(self, step: Callable[[], Tensor], generators: Sequence[torch.Generator]) -> Recorded:
            seen.append([group["capturable"] for group in optimizer.param_groups])
            return super().capture(step, generators)

    train(experiment, StepGraph(experiment.model, optimizer, Graphs()), draw(experiment, 1))
    assert seen == [[True]]
    assert not optimizer.param_groups[0]["capturable"]


@pytest.mark.parametrize(
    ("graphs", "reason"),
    [
        (
            FakeGraphs(error="called a synchronizing CUDA operation\nmore"),
            "called a synchronizing CUDA operation",
        ),
        (FakeGraphs(offset=0.01), "loss term `bpr` of step 1 is"),
    ],
)
def test_a_step_that_cannot_be_captured_is_trained_eagerly(
    graphs: FakeGraphs, reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    eager, captured = (make_experiment(tmp_path, "SIGER") for _ in range(2))
    steps, epochs = StepGraph(captured.model, captured.trainer.optimizer, graphs), draw(eager, 2)
    with caplog.at_level(logging.INFO, logger=step_graph.__name__):
        assert train(captured, steps, epochs) == train(eager, None, epochs)
    lines = [record.getMessage() for record in caplog.records if record.name == step_graph.__name__]
    assert len(lines) == 1
    assert lines[0].startswith(f"compile=auto: steps are trained eagerly: {reason}")
    assert "\n" not in lines[0]
    for name, value in state_of(eager).items():
        assert torch.equal(value, state_of(captured)[name]), name


def test_a_device_that_a_capture_leaves_unusable_is_an_error(tmp_path: Path) -> None:
    class Broken(FakeGraphs):
        n_restored = 0

        def set_random_state(self, state: Tensor) -> None:
            self.n_restored += 1
            if self.n_restored > 1:  # after the eager steps, then after the capture
                raise RuntimeError("an earlier error")

    experiment = make_experiment(tmp_path, "VBPR")
    graphs = Broken(error="operation not permitted")
    steps = StepGraph(experiment.model, experiment.trainer.optimizer, graphs)
    expected = "not usable after a capture: operation not permitted; train with --compile=none"
    with pytest.raises(UserError, match=expected):
        train(experiment, steps, draw(experiment, 1))


def test_a_step_that_assigns_an_attribute_is_not_captured(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "VBPR")
    model, terms = experiment.model, type(experiment.model).loss_terms
    model.n_seen = 0

    def counting(interaction: Any) -> dict[str, Tensor]:
        model.n_seen += 1
        return terms(model, interaction)

    model.loss_terms = counting
    steps = StepGraph(model, experiment.trainer.optimizer, FakeGraphs())
    train(experiment, steps, draw(experiment, 1))
    assert steps.reason == "a step assigns n_seen, which a graph cannot repeat"


def test_a_batch_of_other_columns_is_captured_anew(tmp_path: Path) -> None:
    experiment = make_experiment(tmp_path, "VBPR")
    steps = StepGraph(experiment.model, experiment.trainer.optimizer, FakeGraphs())
    batches = list(experiment.train_data)[:3]
    experiment.model.train()
    steps.train_epoch(batches, lambda _: None)
    for batch in batches:
        batch.interaction["weight"] = torch.ones(len(batch))
    steps.train_epoch(batches, lambda _: None)
    assert steps.n_captures == 2


def test_a_trainer_runs_the_captured_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a captured step, the records of a run are the same to the last bit."""
    recorded, built = [], []

    def build(config: Any, model: Any, optimizer: Any, share: Any) -> StepGraph:
        built.append(StepGraph(model, optimizer, FakeGraphs()))
        return built[0]

    for is_captured in (False, True):
        if is_captured:
            monkeypatch.setattr("recbole_siger.training.trainer.build_step_graph", build)
        experiment = make_experiment(tmp_path, "SIGER")
        results = experiment.train()
        losses = [row["loss"] for row in experiment.run.read_metrics()]
        recorded.append((losses, results["valid"], results["test"]))
    assert recorded[0] == recorded[1]
    assert built[0].n_captures == 1


# ---- which trainings are captured


@pytest.mark.parametrize(
    ("model", "options", "share", "reason"),
    [
        ("SIGER", {}, ALONE, None),
        ("SIGER", {"learner": "adamw"}, ALONE, None),
        ("LightGCN", {}, ALONE, "LightGCN is a model of RecBole, whose step may wait for the GPU"),
        ("DiffMM", {}, ALONE, "DiffMM takes auxiliary steps"),
        ("SIGER", {"learner": "sgd"}, ALONE, "learner=sgd; use adam or adamw"),
        ("SIGER", {"clip_grad_norm": {"max_norm": 5.0}}, ALONE, "clip_grad_norm={'max_norm': 5.0}"),
        ("SIGER", {"enable_amp": True}, ALONE, "enable_amp=True"),
        ("SIGER", {"enable_scaler": True}, ALONE, "enable_scaler=True"),
        ("SIGER", {}, Share(0, 2), "nproc=2"),
    ],
)
def test_what_prevents_a_capture_is_named(
    model: str, options: dict[str, Any], share: Share, reason: str | None, tmp_path: Path
) -> None:
    experiment = make_experiment(tmp_path, model, **options)
    assert why_eager(experiment.config, experiment.model, experiment.trainer.optimizer, share) == reason


def test_on_cpu_auto_is_none_and_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    experiment = make_experiment(tmp_path, "DiffMM", compile="auto")
    parts = experiment.config, experiment.model, experiment.trainer.optimizer
    caplog.clear()
    with caplog.at_level(logging.INFO, logger=step_graph.__name__):
        assert build_step_graph(*parts, ALONE) is None
    assert not caplog.records


def test_the_models_with_a_hook_are_known() -> None:
    ours = {name: get_model_class(name) for name in MODELS}
    hooked = {n for n, c in ours.items() if c.on_epoch_start is not MultimodalRecommender.on_epoch_start}
    assert hooked == {"FREEDOM", "LATTICE", "LayerGCN", "SCALE"}
