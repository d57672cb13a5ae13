"""A run folder is resumed whole or refused in one line; a refusal writes nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.quick_start import evaluate_run, resume_run, run_experiment
from recbole_siger.runs.folder import CHECKPOINT, RunFolder
from tests.integration.test_training import Interrupt
from tests.toy import QUIET, write_toy

Damage = Callable[[dict[str, torch.Tensor], dict[str, Any]], object]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of BPR that was interrupted after two epochs."""
    root = tmp_path_factory.mktemp("interrupted")
    write_toy(root / "data")
    small = {"train_batch_size": 64, "embedding_size": 8, "topk": [3, 5], "valid_metric": "Recall@5"}
    values = {**QUIET, **small, "epochs": 3, "checkpoint_interval": 0, "data_path": str(root / "data")}
    with pytest.MonkeyPatch.context() as monkeypatch:
        Interrupt(monkeypatch, "BPR", 2, after_batch=False)
        with pytest.raises(KeyboardInterrupt):
            run_experiment("BPR", "toy", config_dict={**values, "run_dir": str(root / "run")})
    return root / "run"


@pytest.fixture
def run(interrupted: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(interrupted, tmp_path / "run"))


def refused(run: RunFolder, name: str) -> str:
    """Resume the run, which must fail with one line on a file and without a change of the folder."""

    def contents() -> dict[Path, bytes]:
        files = (file for file in run.path.rglob("*") if file.is_file() and file.name != "run.log")
        return {file: file.read_bytes() for file in files}

    before = contents()
    with pytest.raises(UserError) as caught:
        resume_run(run.path)
    message = str(caught.value)
    assert message.startswith((f"{run.file(name)}: ", f"{run.file(name)}, line "))
    assert "\n" not in message
    assert contents() == before
    return message


def set_counter(key: str, value: Any) -> Damage:
    return lambda _, metadata: metadata["counters"].update({key: value})


def set_part(key: str, value: Any) -> Damage:
    return lambda _, metadata: metadata.update({key: value})


def set_group(key: str, value: Any) -> Damage:
    return lambda _, metadata: metadata["optimizer"]["groups"][0].update({key: value})


def set_random(key: str, value: Any) -> Damage:
    return lambda _, metadata: metadata["random"]["numpy"].update({key: value})


def set_tensor(key: str, value: torch.Tensor) -> Damage:
    return lambda state, _: state.update({key: value})


def drop(key: str) -> Damage:
    return lambda state, _: state.pop(key)


NUMBER = {"kind": "value", "value": 5}


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (set_part("plain", []), "plain is a list, expected an object"),
        (set_part("other", [1]), "other is a list, expected an object"),
        (set_part("other", {"a": {"kind": "value"}}), "does not fit the model: 'value'"),
        (set_part("other", {"a": NUMBER}), "a is missing, of another shape, or not of the model"),
        (set_part("counters", {}), "counters.epoch is missing"),
        (set_part("counters", []), "counters is a list"),
        (set_counter("epoch", "1"), "counters.epoch is '1', expected an integer"),
        (set_counter("epoch", -2), "no training has the counters"),
        (set_counter("epoch", 10**9), "no training has the counters"),
        (set_counter("cur_step", -7), "no training has the counters"),
        (set_counter("best_epoch", 2), "no training has the counters"),
        (set_counter("best_epoch", -1), "no training has the counters"),
        (set_counter("best_valid_score", "high"), "no training has the counters"),
        (set_counter("best_valid_score", float("nan")), "no training has the counters"),
        (set_counter("best_valid_score", 10**400), "no training has the counters"),
        (set_counter("seconds", [1.0]), "no training has the counters"),
        (
            set_counter("seconds", [1.0, float("nan")]),
            "counters.seconds[1] is nan, expected a number (finite",
        ),
        (set_random("pos", 10**30), "random.numpy.pos is 1000"),
        (set_random("pos", 625), "numpy's random state is damaged"),
        (set_random("pos", -1), "numpy's random state is damaged"),
        (set_random("has_gauss", 2**40), "numpy's random state is damaged"),
        (set_tensor("random.numpy", torch.arange(5)), "numpy's random state is damaged"),
        (lambda _, m: m["random"]["python"][1].__setitem__(0, -1), "does not fit the model"),
        (lambda _, m: m["random"].update(python=[3]), "does not fit the model"),
        (set_tensor("random.torch", torch.arange(5)), "does not fit the model"),
        (set_part("optimizer", []), "optimizer is a list, expected an object"),
        (lambda _, m: m["optimizer"].update(groups=[]), "does not fit the model"),
        (set_group("lr", "abc"), "the optimizer has lr='abc', expected numbers from 0"),
        (set_group("lr", -0.1), "the optimizer has lr=-0.1"),
        (set_group("lr", float("nan")), "the optimizer has lr=nan"),
        (set_group("betas", [0.9]), "the optimizer has betas=[0.9]"),
        (
            set_tensor("optimizer.0.exp_avg", torch.zeros(3)),
            "exp_avg of parameter 0 is not of this optimizer",
        ),
        (drop("optimizer.1.exp_avg_sq"), "of parameter 1 is not of this optimizer"),
        (
            set_tensor("optimizer.9.exp_avg", torch.zeros(3)),
            "exp_avg of parameter 9 is not of this optimizer",
        ),
        (set_tensor("optimizer.exp_avg", torch.zeros(3)), "does not fit the model"),
        (lambda _, m: m["optimizer"]["values"].update({"0.step": "a"}), "step of parameter 0"),
        (drop("model.user_embedding.weight"), "does not fit the model"),
        (drop("best.user_embedding.weight"), "user_embedding.weight is missing"),
        (set_tensor("best.user_embedding.weight", torch.zeros(3)), "user_embedding.weight is missing"),
        (set_part("plain", {"calculate_loss": NUMBER}), "does not change the attribute 'calculate_loss'"),
        (set_part("plain", {"device": NUMBER}), "does not change the attribute 'device'"),
        (set_part("plain", {"training": NUMBER}), "does not change the attribute 'training'"),
        (set_part("plain", {"_modules": NUMBER}), "does not change the attribute '_modules'"),
        (set_part("plain", {"user_embedding": NUMBER}), "does not change the attribute 'user_embedding'"),
        (set_part("plain", {"auxiliary_losses": NUMBER}), "the attribute 'auxiliary_losses' of the model"),
        (set_part("plain", {"n_items": {"kind": "value", "value": "x"}}), "the attribute 'n_items'"),
    ],
)
def test_a_checkpoint_with_damaged_content_is_one_line(run: RunFolder, damage: Damage, said: str) -> None:
    state, metadata = run.read_tensors(CHECKPOINT)
    state = {key: value.clone() for key, value in state.items()}
    damage(state, metadata)
    run.write_tensors(CHECKPOINT, state, **metadata)
    assert said in refused(run, CHECKPOINT)


def test_the_flags_of_the_optimizer_are_those_of_the_options(run: RunFolder) -> None:
    state, metadata = run.read_tensors(CHECKPOINT)
    metadata["optimizer"]["groups"][0] |= {"amsgrad": True, "capturable": True, "maximize": True}
    run.write_tensors(CHECKPOINT, {key: value.clone() for key, value in state.items()}, **metadata)
    assert resume_run(run.path)["n_epochs"] == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda lines: [], "expected one line for each epoch below 2"),
        (lambda lines: lines[1:], "expected one line for each epoch below 2"),
        (lambda lines: [lines[0], lines[0]], "expected one line for each epoch below 2"),
        (lambda lines: [b"nothing", lines[1]], "line 1: damaged"),
        (lambda lines: [b"\xff", lines[1]], "not UTF-8"),
        (lambda lines: [lines[0].replace(b"recall@5", b"recall@7"), lines[1]], "epoch 0 has no recall@5"),
        (lambda lines: [lines[0].replace(b'"loss": {', b'"loss": {"a": NaN, '), lines[1]], "loss.a is nan"),
    ],
)
def test_resume_needs_the_line_of_each_epoch(
    run: RunFolder, change: Callable[[list[bytes]], list[bytes]], said: str
) -> None:
    file = run.file("metrics.jsonl")
    file.write_bytes(b"".join(line + b"\n" for line in change(file.read_bytes().splitlines())))
    assert said in refused(run, "metrics.jsonl")


def test_lines_after_the_checkpoint_are_written_again(run: RunFolder) -> None:
    with run.file("metrics.jsonl").open("a") as stream:
        stream.write('{"epoch": 2, "lo')  # the process was killed here
    assert resume_run(run.path)["n_epochs"] == 3
    assert [row["epoch"] for row in run.read_metrics()] == [0, 1, 2]


def test_without_a_checkpoint_a_damaged_file_of_metrics_is_emptied(run: RunFolder) -> None:
    run.file(CHECKPOINT).unlink()
    run.file("metrics.jsonl").write_bytes(b"\xff\n")
    assert resume_run(run.path)["n_epochs"] == 3
    assert len(run.read_metrics()) == 3


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ([1], "other is a list, expected an object"),
        (
            {"full_sort_predict": NUMBER},
            "full_sort_predict is missing, of another shape, or not of the model",
        ),
        ({"a": {"kind": "sparse"}}, "does not fit the model"),
    ],
)
def test_a_saved_model_cannot_name_an_attribute(run: RunFolder, other: Any, said: str) -> None:
    state, metadata = run.read_tensors("model.safetensors")
    run.write_tensors(
        "model.safetensors", {k: v.clone() for k, v in state.items()}, **{**metadata, "other": other}
    )
    with pytest.raises(UserError) as caught:
        evaluate_run(run.path)
    assert str(caught.value).startswith(f"{run.file('model.safetensors')}: ")
    assert said in str(caught.value)


def test_a_run_of_a_changed_config_names_the_file(run: RunFolder) -> None:
    values = run.read_config()
    for changes, said in (
        ({"model": ["a"]}, "model=['a'], expected a name"),
        ({"model": "Nope"}, "model='Nope': no such model"),
        ({"model": "BRP"}, "model='BRP': no such model; did you mean `BPR`?"),
        ({"dataset": None}, "dataset=None, expected a name"),
    ):
        run.write_config({**values, **changes})
        assert said in refused(run, "config.yaml")
