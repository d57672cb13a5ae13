"""The results of a search: the winner's run folder and options, ``search.json``, two figures."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

from recbole_siger.common.files import atomic_path, write_text
from recbole_siger.common.log import logging_to
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.quick_start import resume_run
from recbole_siger.report.figures import check_matplotlib
from recbole_siger.report.search import draw_search
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import format_metrics
from recbole_siger.tuning.ledger import Ledger, Trial
from recbole_siger.tuning.trial import TRIAL_FILE

__all__ = ["write_outcome"]

_log = logging.getLogger(__name__)


def write_outcome(config: Config, ledger: Ledger, request: Mapping[str, Any]) -> dict[str, Any]:
    """Test the winner, once for each seed, and write ``best.yaml``, ``search.json`` and the figures.

    Args:
        config: Configuration that all trials share.
        ledger: The trials of the ended search.
        request: Arguments of the search, for ``search.json``.

    Returns:
        The content of ``search.json``.

    Raises:
        UserError: If no trial finished.
    """
    folder, ranked = ledger.folder, ledger.ranked()
    if not ranked:
        reasons = sorted({trial.reason for trial in ledger.trials.values() if trial.reason})
        raise UserError(f"{folder}: no trial finished: {'; '.join(reasons) or 'all were stopped'}")
    score, trials = ranked[0]
    tested = [_test(config, folder, trial) for trial in trials]
    test = {name: fmean(run["test"][name] for run in tested) for name in tested[0]["test"]}
    runs = [Path(run["run_dir"]).name for run in tested]
    found = {
        **{key: config[key] for key in ("model", "dataset")},
        **{key: tested[0][key] for key in ("protocol", "protocol_id")},
        "metric": ledger.metric,
        **{key: value for key, value in request.items() if key != "config"},
        "trials": ledger.counts(),
        "seconds": round(ledger.seconds, 1),
        "best": {"values": trials[0].values, "valid": score, "test": test, "runs": runs},
        "versions": {**tested[0]["versions"], "ray": version("ray")},
    }
    _write_options(config, ledger, trials[0], score)
    write_text(folder / "search.json", json.dumps(found, indent=2) + "\n")
    with logging_to(None):
        _draw(ledger)
        _log.info(
            "%d trials: %s", len(ledger.trials), ", ".join(f"{n} {s}" for s, n in ledger.counts().items())
        )
        _log.info("best valid %s %.4f: %s", ledger.metric, score, trials[0].told())
        _log.info("test   %s", format_metrics(test))
        _log.info("search: %s", folder)
    return found


def _test(config: Config, folder: Path, trial: Trial) -> dict[str, Any]:
    """Copy a finished trial's checkpoint to a run folder and test it; keep an existing tested run."""
    run, source = RunFolder(folder / f"best-seed{trial.seed}"), folder / trial.folder
    here = config.effective()
    # The trial may have run on another machine.
    places = {key: here[key] for key in sorted(NO_EFFECT & here.keys())}
    values = {**RunFolder(source).read_config(), **places}
    if run.finished and run.read_config() == values:
        return {**run.read_results(), "run_dir": str(run.path)}
    with atomic_path(run.path) as temporary:
        shutil.copytree(source, temporary, ignore=shutil.ignore_patterns(TRIAL_FILE))
        RunFolder(temporary).write_config(values)
    return resume_run(run.path, model=config["model"])


def _write_options(config: Config, ledger: Ledger, trial: Trial, score: float) -> None:
    """Write the winner's options and the options given for all trials, for ``--config_files``."""
    left_out = NO_EFFECT | {"model", "dataset", "seed"}
    given = {key: value for key, value in config.external_config_dict.items() if key not in left_out}
    file, model, dataset = ledger.folder / "best.yaml", config["model"], config["dataset"]
    n = len(ledger.trials)
    head = [
        f"# {model} on {dataset}: the best of {n} trials by valid {ledger.metric}, {score:.4f}",
        f"# recbole-siger run --model={model} --dataset={dataset} --config_files={shlex.quote(str(file))}",
    ]
    body = yaml.safe_dump({**given, **trial.values}, sort_keys=False, allow_unicode=True)
    write_text(file, "\n".join([*head, body]))


def _draw(ledger: Ledger) -> None:
    try:
        check_matplotlib()
    except UserError as error:
        _log.info("no figures: %s", error)
        return
    rows = [(trial.values, trial.score) for trial in ledger.trials.values() if trial.score is not None]
    written = draw_search(rows, ledger.metric, ledger.folder, bigger=ledger.bigger)
    if written:
        _log.info("figures: %s", ", ".join(str(path) for path in written))
