"""Report the epochs of a run to TensorBoard, Weights & Biases or MLflow: the records of ``metrics.jsonl``.

Nothing leaves the machine unless the environment says so: W&B is offline without ``WANDB_MODE``, and MLflow
writes to a file of the run folder without ``MLFLOW_TRACKING_URI``.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from recbole_siger.common.files import write_text
from recbole_siger.common.process import restored_environment
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.parallel.shares import current_share
from recbole_siger.runs.folder import RunFolder

__all__ = ["Tracker", "check_logger", "scalars", "tracking"]

_log = logging.getLogger(__name__)

_NUMBERS = ("seconds_train", "seconds_valid", "peak_memory_mib", "best_epoch")
_QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "WANDB_ERROR_REPORTING": "false"}
_MAX_PARAM, _PARAMS_A_CALL = 500, 100


def check_logger(config: Config) -> None:
    """Check that the package of ``logger`` is installed.

    Raises:
        UserError: With the command that installs the package.
    """
    name = config.run.logger
    if name != "none" and importlib.util.find_spec(name) is None:
        raise UserError(
            f"{config.origin['logger']}: logger={name} needs the package {name}; run "
            f'`pip install "recbole-siger[{name}]"`'
        )


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of ``metrics.jsonl`` by name.

    >>> record = {"epoch": 3, "loss": {"bpr": 0.5}, "valid": {"recall@20": 0.25}, "best_epoch": None}
    >>> scalars(record)
    {'loss/bpr': 0.5, 'valid/recall@20': 0.25}
    """
    found = {f"loss/{name}": value for name, value in record["loss"].items()}
    found |= {f"valid/{name}": value for name, value in (record["valid"] or {}).items()}
    found |= {name: record[name] for name in _NUMBERS if record.get(name) is not None}
    return {name: float(value) for name, value in found.items()}


class Tracker:
    """Takes the records of a run; this class ignores them."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Report numbers of an epoch."""

    def close(self, finished: bool) -> None:
        """End the report; ``finished`` is False after an error or an interrupt."""


class _TensorBoard(Tracker):
    """Event files in the folder ``tensorboard`` of the run."""

    def __init__(self, config: Config, run: RunFolder, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.file("tensorboard")), purge_step=first_epoch)
        lines = (f"    {key}: {value}" for key, value in config.effective().items())
        self._writer.add_text("config", "\n".join(lines), first_epoch)

    def log(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        self._writer.close()


class _WandB(Tracker):
    """A run of Weights & Biases in the folder ``wandb`` of the run."""

    def __init__(self, config: Config, run: RunFolder, first_epoch: int) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")  # W&B checks the word
        settings = wandb.Settings(
            mode=mode,
            silent=True,
            console="off",
            symlink=False,  # a run folder has no symbolic links
            disable_git=True,
            disable_code=True,
            x_disable_stats=True,
        )
        self._run = wandb.init(
            project=config["wandb_project"],
            id=_identifier(run, "wandb_id.txt", lambda: secrets.token_hex(4)),
            name=run.path.name,
            dir=str(run.path),
            config=config.effective(),
            resume="allow",
            settings=settings,
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step)

    def close(self, finished: bool) -> None:
        self._run.finish(exit_code=0 if finished else 1)


class _MLflow(Tracker):
    """A run of MLflow in the folder ``mlflow`` of the run, or at ``MLFLOW_TRACKING_URI``."""

    def __init__(self, config: Config, run: RunFolder, first_epoch: int) -> None:
        from mlflow.tracking import MlflowClient

        folder, place = run.file("mlflow").resolve(), os.environ.get("MLFLOW_TRACKING_URI")
        folder.mkdir(exist_ok=True)
        self._client: Any = MlflowClient(place or f"sqlite:///{folder / 'mlflow.db'}")
        name = str(config["dataset"])
        found = self._client.get_experiment_by_name(name)
        artifacts = None if place else (folder / "artifacts").as_uri()
        experiment = found.experiment_id if found else self._client.create_experiment(name, artifacts)
        self._run_id = _identifier(run, "mlflow/run_id.txt", lambda: self._begin(experiment, config, run))

    def _begin(self, experiment: str, config: Config, run: RunFolder) -> str:
        from mlflow.entities import Param

        run_id: str = self._client.create_run(experiment, run_name=run.path.name).info.run_id
        params = [
            Param(_plain_name(key), str(value)[:_MAX_PARAM]) for key, value in config.effective().items()
        ]
        for start in range(0, len(params), _PARAMS_A_CALL):
            self._client.log_batch(run_id, params=params[start : start + _PARAMS_A_CALL])
        return run_id

    def log(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(_plain_name(name), value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self, finished: bool) -> None:
        self._client.set_terminated(self._run_id, "FINISHED" if finished else "KILLED")


def _plain_name(name: str) -> str:
    """Return a name with the characters that MLflow allows.

    >>> _plain_name("test/recall@20[cold]")
    'test/recall_at_20_cold_'
    """
    return re.sub(r"[^\w\-. :/]", "_", name.replace("@", "_at_"))


def _identifier(run: RunFolder, file: str, make: Callable[[], str]) -> str:
    """Return the identifier of a report that a resumed run continues; make one if there is none."""
    path = run.file(file)
    if path.is_file():
        text = path.read_text(encoding="utf-8").strip()
        if not re.fullmatch(r"\w{1,64}", text):
            raise UserError(f"{path}: is no identifier; delete the file to begin another report")
        return text
    made = make()
    write_text(path, made + "\n")
    return made


class _Guarded(Tracker):
    """Another tracker, until it fails: training goes on, because ``metrics.jsonl`` has every record."""

    def __init__(self, name: str, tracker: Tracker) -> None:
        self._name, self._tracker = name, tracker
        self._works = True

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._do(lambda: self._tracker.log(values, step))

    def close(self, finished: bool) -> None:
        self._do(lambda: self._tracker.close(finished))

    def _do(self, action: Callable[[], None]) -> None:
        if not self._works:
            return
        try:
            action()
        except Exception as error:  # a package of another project, a server, a full disk
            self._works = False
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            _log.warning(
                "%s: %s; the run goes on without it, metrics.jsonl has all epochs", self._name, reason
            )


_TRACKERS: dict[str, Any] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}


@contextmanager
def tracking(config: Config, run: RunFolder, first_epoch: int) -> Iterator[Tracker]:
    """Yield what the epochs and results of a run are reported to, by the option ``logger``.

    Of a training in several processes, only the first process reports.

    Args:
        config: The configuration.
        run: The run folder.
        first_epoch: The epoch with which this process begins, > 0 for a resumed run.

    Raises:
        UserError: If the report cannot begin.
    """
    name = config.run.logger
    if name == "none" or current_share().rank > 0:
        yield Tracker()
        return
    with restored_environment(*_QUIET):
        for key, value in _QUIET.items():
            os.environ.setdefault(key, value)
        try:
            tracker = _Guarded(name, _TRACKERS[name](config, run, first_epoch))
        except UserError:
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            raise UserError(
                f"{config.origin['logger']}: logger={name}: {reason}; correct it or use logger=none"
            ) from error
        finished = False
        try:
            yield tracker
            finished = True
        finally:
            tracker.close(finished)
