"""A run is reported to TensorBoard, W&B and MLflow without a server, and read back."""

from __future__ import annotations

import importlib.util
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from recbole_siger import cli
from recbole_siger.errors import UserError
from recbole_siger.runs.claim import refuse_links
from recbole_siger.runs.folder import RunFolder
from recbole_siger.testing.toy import make_toy
from recbole_siger.training import tracking
from recbole_siger.training.experiment import Experiment
from recbole_siger.training.tracking import scalars
from tests.conftest import make_experiment

Points = dict[tuple[str, int], float]


@pytest.fixture(autouse=True)
def _without_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def train(folder: Path, logger: str, **options: Any) -> Experiment:
    experiment = make_experiment(folder, "BPR", logger=logger, epochs=3, **options)
    experiment.begin()
    experiment.train()
    return experiment


def expected(run: Path) -> Points:
    """Return the numbers of ``metrics.jsonl`` and of the test by name and epoch."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = {(name, row["epoch"]): value for row in records for name, value in scalars(row).items()}
    test = json.loads((run / "results.json").read_text())["test"]
    return found | {(f"test/{name}", records[-1]["epoch"]): value for name, value in test.items()}


def read_tensorboard(run: Path) -> Points:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert "model: BPR" in str(events.Tensors("config/text_summary")[0].tensor_proto)
    return {(name, one.step): one.value for name in events.Tags()["scalars"] for one in events.Scalars(name)}


def read_wandb(run: Path) -> Points:
    """Read the file of an offline run; W&B's own process completes the file after the run has ended."""
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    end = time.monotonic() + 120
    while not (records := wandb_records(file.read_bytes())) or not records[-1].HasField("exit"):
        assert time.monotonic() < end
        time.sleep(0.1)
    found: Points = {}
    for record in records:
        for item in record.history.item:
            name = item.key or "/".join(item.nested_key)
            if not name.startswith("_"):
                found[name, record.history.step.num] = float(json.loads(item.value_json))
    return found


def wandb_records(data: bytes) -> list[Any]:
    """Return the records of a file of W&B: protobuf in blocks of 32 KiB, as LevelDB writes a log."""
    from wandb.proto.wandb_internal_pb2 import Record

    place, parts, found = 7, b"", []
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, size, kind = struct.unpack("<IHB", data[place : place + 7])
        parts = (b"" if kind in (1, 2) else parts) + data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4) and place <= len(data):  # whole, or the last part
            found.append(Record.FromString(parts))
    return found


def read_mlflow(run: Path) -> Points:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{run.resolve() / 'mlflow' / 'mlflow.db'}")
    run_id = (run / "mlflow" / "run_id.txt").read_text().strip()
    whole = client.get_run(run_id)
    assert whole.info.status == "FINISHED"
    assert whole.data.params["model"] == "BPR"
    return {
        (name.replace("_at_", "@"), one.step): one.value
        for name in whole.data.metrics
        for one in client.get_metric_history(run_id, name)
    }


READERS = {"tensorboard": read_tensorboard, "wandb": read_wandb, "mlflow": read_mlflow}


@pytest.mark.slow
@pytest.mark.parametrize("logger", READERS)
def test_every_epoch_is_reported_and_read_back(logger: str, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip(logger, reason=f"needs the extra `{logger}`")
    monkeypatch.chdir(tmp_path)
    experiment = train(tmp_path, logger)
    run = experiment.run.path
    want = expected(run)
    assert {step for _, step in want} == {0, 1, 2}
    assert READERS[logger](run) == pytest.approx(want, rel=1e-6)
    outside = {path.name for path in tmp_path.iterdir()} - {"dataset", run.relative_to(tmp_path).parts[0]}
    assert outside == set()  # a run writes to its folder only
    refuse_links(run)  # the run can be resumed
    plain = train(tmp_path / "plain", "none")
    assert not any((plain.run.path / name).exists() for name in READERS)
    assert (
        json.loads(plain.run.file("results.json").read_text())["test"]
        == json.loads((run / "results.json").read_text())["test"]
    )


@pytest.mark.parametrize("logger", READERS)
def test_a_missing_package_is_one_line(logger: str, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == logger else find(name, *a)
    )
    monkeypatch.chdir(tmp_path)
    make_toy().write(tmp_path / "dataset" / "toy")
    assert cli.main(["run", "--model=BPR", "--dataset=toy", f"--logger={logger}"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"error: command line: logger={logger} needs the package {logger}; run "
        f'`pip install "recbole-siger[{logger}]"`\n'
    )


def test_training_goes_on_without_a_tracker_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    steps: list[int] = []

    class Failing(tracking.Tracker):
        def __init__(self, *_: Any) -> None: ...

        def log(self, values: Any, step: int) -> None:
            steps.append(step)
            raise ConnectionError("the server does not answer")

    monkeypatch.setitem(tracking._TRACKERS, "tensorboard", Failing)
    experiment = train(tmp_path, "tensorboard")
    assert experiment.run.file("results.json").is_file()
    assert steps == [0]
    lines = [
        record.getMessage()
        for record in caplog.records
        if "the run goes on without it" in record.getMessage()
    ]
    assert lines == [
        "tensorboard: ConnectionError: the server does not answer; the run goes on without it, "
        "metrics.jsonl has all epochs"
    ]


def test_an_interrupt_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[bool] = []

    class Recorder(tracking.Tracker):
        def __init__(self, config: Any, run: Any, first_epoch: int) -> None:
            assert first_epoch == 0

        def log(self, values: Any, step: int) -> None:
            if step == 1:
                raise KeyboardInterrupt

        def close(self, finished: bool) -> None:
            ends.append(finished)

    monkeypatch.setitem(tracking._TRACKERS, "wandb", Recorder)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: find("json" if name == "wandb" else name, *a)
    )
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, "wandb")
    assert ends == [False]


def test_a_resumed_run_continues_its_report(tmp_path: Path) -> None:
    run, made = RunFolder(tmp_path), iter(["first", "second"])
    assert tracking._identifier(run, "wandb_id.txt", lambda: next(made)) == "first"
    assert tracking._identifier(run, "wandb_id.txt", lambda: next(made)) == "first"
    for damaged in ("", "../escape", "x" * 65, "two words"):
        (tmp_path / "wandb_id.txt").write_text(damaged)
        with pytest.raises(UserError, match="is no identifier; delete the file"):
            tracking._identifier(run, "wandb_id.txt", lambda: next(made))
