"""Check a dataset and a finished run against the requirements of an honest evaluation."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import init_seed

from recbole_siger.audit.features import feature_findings
from recbole_siger.audit.graphs import Finding, graph_findings, name_pair, pairs_of
from recbole_siger.common.locks import scratch_folder
from recbole_siger.common.terminal import print_line
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.data.fingerprint import protocol_facts
from recbole_siger.data.loading import split_and_load
from recbole_siger.data.settings import interaction_columns
from recbole_siger.errors import UserError
from recbole_siger.evaluation.metrics import USER_METRICS
from recbole_siger.evaluation.protocol import PROTOCOLS, protocol_id
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.runs.folder import RunFolder
from recbole_siger.training.experiment import Experiment, build_experiment, config_of_run, ranks_all_items
from recbole_siger.training.settings import run_settings
from recbole_siger.tuning.ledger import Ledger

__all__ = ["Finding", "audit", "print_audit"]


def print_audit(
    dataset: str | None,
    run_dir: str | Path | None = None,
    values: Mapping[str, str] | None = None,
    as_json: bool = False,
    files: Sequence[str] = (),
) -> int:
    """Print the findings; return 1 if one is a FAIL, else 0."""
    findings = audit(dataset, run_dir, values, files)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print_line(f"{finding.verdict}  {finding.check}: {finding.text}")
    return int(any(finding.verdict == "FAIL" for finding in findings))


def audit(
    dataset: str | None,
    run_dir: str | Path | None = None,
    values: Mapping[str, str] | None = None,
    files: Sequence[str] = (),
) -> list[Finding]:
    """Check a dataset, and optionally a run on the dataset.

    Args:
        dataset: Name of the dataset; with a run, by default the run's dataset.
        run_dir: A finished run folder; the audit then checks the run's configuration.
        values: Options as typed. ``model`` names the model whose graphs are checked; by default SIGER if the
            dataset lists features, else LightGCN.
        files: Configuration files; not with a run.

    Raises:
        UserError: If the dataset or run does not exist, or the run is unfinished.
    """
    given = dict(values or {})
    if run_dir is not None and files:
        raise UserError("command line: --config_files cannot be set for a run; remove it")
    run = None if run_dir is None else RunFolder.open(run_dir)
    if run is not None:
        config = _run_config(run, dataset, given)
    elif dataset is None and not files:
        raise UserError("command line: name the dataset, as in --dataset=NAME, or a run, as in --run=DIR")
    else:
        named = [read_yaml(Path(file)).get("model") for file in files]
        model = given.pop("model", None) or next(filter(None, reversed(named)), None)
        model = model or _model_for(dataset, given, files)
        config = Config(model, dataset, [*files], command_line=given)
    with scratch_folder() as scratch, run_settings(config):
        experiment = build_experiment(config, RunFolder(scratch))
        findings = [
            *_duplicates(experiment),
            *_without_training(experiment),
            *feature_findings(experiment),
            *_times(experiment),
            *graph_findings(experiment),
        ]
        if run is not None:
            findings += _run_findings(run, experiment)
    return findings


def _model_for(dataset: str | None, values: Mapping[str, str], files: Sequence[str]) -> str:
    listed = Config("SIGER", dataset, [*files], command_line=values)["features"]
    return "SIGER" if listed else "LightGCN"


def _run_config(run: RunFolder, dataset: str | None, values: dict[str, str]) -> Config:
    run.read_results()  # raises if the run is unfinished
    model = values.pop("model", None)
    config = config_of_run(run, values.pop("data_path", None), model, prepare=None)
    if dataset not in (None, config["dataset"]):
        raise UserError(
            f"{run.path}: is a run on {config['dataset']!r}, not on {dataset!r}; remove --dataset"
        )
    if values:
        raise UserError(f"command line: --{next(iter(values))} cannot be set for a run; remove it")
    return config


# ---- data


def _duplicates(experiment: Experiment) -> Iterator[Finding]:
    pairs, clean = pairs_of(experiment), True
    for first, second in (("train", "valid"), ("train", "test"), ("valid", "test")):
        both = np.intersect1d(pairs[first], pairs[second])
        if len(both):
            clean = False
            text = (
                f"{len(both)} pairs are in {first} and in {second}, such as {name_pair(experiment, both[0])}"
            )
            yield Finding("FAIL", "parts", text)
    if clean:
        yield Finding("PASS", "parts", "no pair is in two of train, valid and test")
    for name, keys in pairs.items():
        if repeated := len(keys) - len(np.unique(keys)):
            yield Finding("INFO", "parts", f"{repeated} rows of {name} repeat an earlier row of that part")


def _without_training(experiment: Experiment) -> Iterator[Finding]:
    pairs, n_items = pairs_of(experiment), experiment.dataset.item_num
    for noun, ids in (("users", lambda k: k // n_items), ("items", lambda k: k % n_items)):
        trained = np.unique(ids(pairs["train"]))
        for name in ("valid", "test"):
            here = np.unique(ids(pairs[name]))
            lone = len(np.setdiff1d(here, trained))
            yield Finding("INFO", "cold", f"{lone} of {len(here)} {noun} of {name} have no training row")


def _times(experiment: Experiment) -> Iterator[Finding]:
    train, _, test = (loader._dataset for loader in experiment.loaders())
    field = train.time_field
    if field not in train.inter_feat.columns:
        timed = _timed_splits(experiment)
        if timed is None:
            yield Finding("INFO", "time", "there are no timestamps")
            return
        train, test = timed
    latest = np.full(train.user_num, -np.inf)
    np.maximum.at(latest, train.inter_feat[train.uid_field].numpy(), train.inter_feat[field].numpy())
    older = test.inter_feat[field].numpy() < latest[test.inter_feat[test.uid_field].numpy()]
    text = f"{older.mean():.1%} of the test rows are older than their user's last training row"
    yield Finding("INFO", "time", text)


def _timed_splits(experiment: Experiment) -> tuple[Any, Any] | None:
    """Load training and test rows again with the time column, which training does not load.

    None if the files have no such column, or if the same split cannot be made again.
    """
    config = experiment.config
    field, columns = config["TIME_FIELD"], dict(config["load_col"] or {})
    if not ranks_all_items(config) or "inter" not in columns or field not in interaction_columns(config):
        return None
    columns["inter"] = [*columns["inter"], field]
    timed = Config(config["model"], config_dict={**config.effective(), "load_col": columns})
    with run_settings(config):
        init_seed(config.run.seed, config["reproducibility"])
        loaders = split_and_load(timed, MultimodalDataset(timed))
    parts = [loader._dataset for loader in loaders]
    same = (
        torch.equal(part.train_edges, loader._dataset.train_edges)
        for part, loader in zip(parts, experiment.loaders(), strict=True)
    )
    return (parts[0], parts[2]) if all(same) else None


# ---- a run


def _run_findings(run: RunFolder, experiment: Experiment) -> Iterator[Finding]:
    results = run.read_results()
    digests = experiment.digests()
    try:
        run.check_digests(digests)
        yield Finding("PASS", "run", "splits and features equal those of the training")
    except UserError as error:
        yield Finding("FAIL", "run", str(error))
    expected = protocol_id(protocol_facts(experiment.config, digests))
    if results.get("protocol_id") == expected:
        yield Finding("PASS", "run", f"protocol_id {expected} matches the configuration and the data")
    else:
        text = f"protocol_id is {results.get('protocol_id')}, but configuration and data give {expected}"
        yield Finding("FAIL", "run", text)
    yield from _selection(run, experiment.config, results)
    yield from _search(run, experiment.config, results)
    yield from _weights(run, experiment, results)
    yield from _users(run, results, experiment.config["metric_decimal_place"])


def _selection(run: RunFolder, config: Config, results: Mapping[str, Any]) -> Iterator[Finding]:
    """Choose the best epoch again, by validation scores only."""
    file = run.file("metrics.jsonl")
    try:
        lines = run.read_metrics()
    except UserError:
        yield Finding(
            "FAIL", "selection", f"{file}: missing or damaged, so the choice of the epoch cannot be checked"
        )
        return
    if [line["epoch"] for line in lines] != list(range(results["n_epochs"])):
        text = f"{file}: has not one line for each of the {results['n_epochs']} epochs of results.json"
        yield Finding("FAIL", "selection", text)
        return
    looked = [line["epoch"] for line in lines if any(key.startswith("test") for key in line)]
    if looked:
        yield Finding("FAIL", "selection", f"metrics.jsonl: test data were read in epoch {looked[0]}")
    metric, best = config["valid_metric"].lower(), results.get("best_epoch")
    valid = {line["epoch"]: line["valid"] for line in lines if line.get("valid")}
    if any(metric not in metrics for metrics in valid.values()):
        yield Finding("FAIL", "selection", f"{file}: has no {metric}, the valid_metric of config.yaml")
        return
    scores = {epoch: metrics[metric] for epoch, metrics in valid.items()}
    if not scores and results["valid"]:
        yield Finding("FAIL", "selection", f"{file}: has no validation, but results.json has `valid`")
        return
    if not scores:
        yield Finding("INFO", "selection", "the run has no validation; the last epoch was tested")
        return
    chosen = best_epoch(
        scores, config["valid_metric_bigger"], PROTOCOLS[config.run.protocol].selection_decimals
    )
    told = f"validation {metric} was best in epoch {chosen} ({scores[chosen]})"
    if best == chosen and results.get("valid") == valid[chosen]:
        yield Finding("PASS", "selection", f"{told}, and this epoch was tested")
    elif best == chosen:
        yield Finding(
            "FAIL", "selection", f"results.json: `valid` differs from metrics.jsonl in epoch {chosen}"
        )
    else:
        text = f"results.json: best_epoch is {best} ({scores.get(best, 'not validated')}), but {told}"
        yield Finding("FAIL", "selection", text)


def _search(run: RunFolder, config: Config, results: Mapping[str, Any]) -> Iterator[Finding]:
    """Choose the winner of a search again, by validation scores only, if the run is a winner."""
    folder = run.path.resolve()
    file, metric = folder.parent / "trials.json", config["valid_metric"].lower()
    if not (folder.name.startswith("best-") and file.is_file()):
        return
    ledger = Ledger(file.parent, metric, config["valid_metric_bigger"])
    ledger.load(retry=False)
    ranked = ledger.ranked()
    if not ranked:
        yield Finding("FAIL", "selection", f"{file}: no trial of the search has finished")
        return
    (score, trials), values = ranked[0], run.read_config()
    own = {key: values.get(key) for key in trials[0].values}
    if own != trials[0].values:
        text = f"{file}: validation {metric} was best, {score}, with {trials[0].told()}; the run has {own}"
        yield Finding("FAIL", "selection", text)
    elif results["valid"].get(metric) not in [t.score for t in trials if t.seed == results["seed"]]:
        text = f"{file}: no trial of this point has validation {metric} {results['valid'].get(metric)}"
        yield Finding("FAIL", "selection", text)
    else:
        text = f"this point has the best validation {metric} of {len(ranked)} finished points of the search"
        yield Finding("PASS", "selection", text)


def best_epoch(scores: Mapping[int, float], bigger: bool, decimals: int | None) -> int:
    """Return the first epoch with the best rounded score.

    >>> best_epoch({0: 0.11, 1: 0.3001, 2: 0.30012}, True, 4), best_epoch({0: 2.0, 1: 1.0}, False, None)
    (1, 1)
    """
    rounded = {
        epoch: score if decimals is None else round(score, decimals) for epoch, score in scores.items()
    }
    best = (max if bigger else min)(rounded.values())
    return next(epoch for epoch in sorted(rounded) if rounded[epoch] == best)


def _weights(run: RunFolder, experiment: Experiment, results: Mapping[str, Any]) -> Iterator[Finding]:
    """Evaluate the saved weights again and compare with the results, which belong to the same epoch."""
    config = experiment.config
    if not run.file("model.safetensors").is_file():
        if config["saved"]:
            yield Finding("FAIL", "weights", "model.safetensors is missing, but the run has saved=True")
        else:
            yield Finding("INFO", "weights", "the run has saved=False; its weights cannot be evaluated again")
        return
    experiment.trainer.load_model(run)
    experiment.trainer.eval_collector.data_collect(experiment.train_data)
    found = {"valid": experiment.evaluate(experiment.valid_data), "test": experiment.test()}
    if experiment.evaluate(experiment.valid_data, seed=1) != found["valid"]:
        yield Finding(
            "INFO", "weights", "the model draws random numbers when it scores; validation differs each time"
        )
        found["valid"] = results["valid"]
    if not results["valid"]:
        del found["valid"]  # the run has no validation, see _selection
    for part, metrics in found.items():
        for key in {**results[part], **metrics}:
            value, told = metrics.get(key), results[part].get(key)
            # Another machine may round scores differently, so that the last printed digit differs by one.
            if (
                None in (value, told)
                or not abs(value - told) <= 1.01 * 10.0 ** -config["metric_decimal_place"]
            ):
                text = f"{part} {key} of model.safetensors is {value}, but results.json has {told}"
                yield Finding("FAIL", "weights", text)
                return
    yield Finding(
        "PASS", "weights", "model.safetensors gives the validation and test metrics of results.json"
    )


def _users(run: RunFolder, results: Mapping[str, Any], decimals: int) -> Iterator[Finding]:
    if not run.file("users.csv").is_file():
        yield Finding("INFO", "users", "no users.csv; the run ranks nothing or is older than users.csv")
        return
    try:
        frame = run.read_users()
    except UserError as error:
        yield Finding("FAIL", "users", str(error))
        return
    for key, told in results["test"].items():
        if "[" in key or key.partition("@")[0] not in USER_METRICS:
            continue  # not a mean over all users
        mean = float(frame[key].mean()) if key in frame.columns else np.nan
        if not abs(mean - told) <= 0.51 * 10.0**-decimals + 1e-12:
            has = f"the mean of {key} is {mean:.6f}" if key in frame.columns else f"has no {key}"
            yield Finding("FAIL", "users", f"users.csv: {has}, but results.json has {told}")
            return
    yield Finding("PASS", "users", f"the means over {len(frame)} users equal the metrics of results.json")
