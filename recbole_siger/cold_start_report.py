"""Compare models on cold items or cold users: a table, and the bars of SIGER's Figure 3."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.files import atomic_path, write_text
from recbole_siger.progress import logging_to
from recbole_siger.quick_start import resume_run, run_experiment
from recbole_siger.run_folder import RunFolder

__all__ = ["cold_start_report"]

_log = logging.getLogger(__name__)

GROUPS = {"": "all", "[cold]": "cold", "[warm]": "warm"}
_WHITE = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}
COLOURS = {"all": "#8c8c8c", "cold": "#0072b2", "warm": "#e69f00"}  # told apart by the colour-blind too


def cold_start_report(
    models: Sequence[str],
    dataset: str,
    kind: str | None = None,
    out: str | Path | None = None,
    files: Sequence[str] = (),
    values: Mapping[str, str] | None = None,
) -> Path:
    """Train each model under one cold-start protocol, and write ``cold_start.{md,csv,png,svg}``.

    Each model's run is ``<out>/<Model>``. A finished run there with the same configuration is used again, an
    unfinished one is continued.

    Args:
        models: Model names, each once.
        dataset: Dataset name.
        kind: Short for ``cold_start: {kind: ...}``; by default what ``values`` or a file says, else ``item``.
        out: Folder; by default ``runs/<dataset>/cold-start-<kind>``.
        files: YAML files for every run.
        values: Options for every run, as typed.

    Returns:
        The folder.

    Raises:
        UserError: For bad input, before anything is trained.
    """
    given = dict(values or {})
    if "run_dir" in given:
        raise UserError("command line: --run_dir: each model gets its own folder; use --out")
    if kind is not None and "cold_start" in given:
        raise UserError("command line: --kind and --cold_start say the same; keep one")
    if not models or len(set(models)) != len(models):
        raise UserError(f"command line: --models={','.join(models)}: name each model once, and at least one")
    if kind is not None:
        given["cold_start"] = f"{{kind: {kind}}}"
    elif Config(models[0], dataset, files, command_line=given).cold_start is None:
        given["cold_start"] = "{kind: item}"
    configs = {model: Config(model, dataset, files, command_line=given) for model in models}
    settings = configs[models[0]].cold_start
    assert settings is not None
    folder = Path(out or Path("runs") / dataset / f"cold-start-{settings.kind}")
    todo = {model: _state(folder / model, config) for model, config in configs.items()}
    results = {}
    for model, state in todo.items():
        run_dir = folder / model
        if state == "finished":
            _tell(f"{run_dir}: used again")
        elif state == "unfinished":
            resume_run(run_dir, configs[model].effective()["data_path"])
        else:
            run_experiment(model, dataset, files, command_line={**given, "run_dir": str(run_dir)})
        results[model] = RunFolder(run_dir).read_results()
    _write(folder, results)
    return folder


def _tell(text: str) -> None:
    with logging_to(None):
        _log.info("%s", text)


def _state(run_dir: Path, config: Config) -> str:
    """Tell whether a run is ``new``, ``unfinished`` or ``finished``.

    Raises:
        UserError: If its folder holds a run with another configuration.
    """
    run = RunFolder(run_dir)
    if not run.file("config.yaml").is_file():
        return "new"
    kept, wanted = run.read_config(), yaml.safe_load(yaml.safe_dump(config.effective()))
    for key in [*wanted, *kept]:
        if key != "data_path" and kept.get(key) != wanted.get(key):
            said = f"{key}={kept.get(key)!r}, not {wanted.get(key)!r}"
            raise UserError(f"{run_dir}: holds a run with {said}; choose another --out")
    return "finished" if run.file("results.json").is_file() else "unfinished"


# ---- what is written


def _write(folder: Path, results: Mapping[str, Mapping[str, Any]]) -> None:
    first = next(iter(results.values()))
    ids = {result["protocol_id"] for result in results.values()}
    if len(ids) > 1:
        raise UserError(
            f"{folder}: runs of {len(ids)} protocols ({', '.join(sorted(ids))}); choose another --out"
        )
    write_text(folder / "cold_start.csv", _csv(results))
    write_text(folder / "cold_start.md", _markdown(results))
    _tell((folder / "cold_start.md").read_text(encoding="utf-8"))
    k = max(first["protocol_facts"]["topk"])
    metrics = [name for name in (f"recall@{k}", f"ndcg@{k}") if name in first["test"]]
    written = _figure(folder, results, metrics or [next(iter(first["test"]))])
    _tell(
        f"written: {', '.join(str(folder / name) for name in ['cold_start.md', 'cold_start.csv', *written])}"
    )


def _cold_items(result: Mapping[str, Any]) -> str:
    return {True: "yes", False: "no", None: ""}[result.get("scores_cold_items")]


def _csv(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate every test metric with every digit."""
    names = list(dict.fromkeys(name for result in results.values() for name in result["test"]))
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["model", "scores_cold_items", "seed", "best_epoch", "protocol_id", *names])
    for model, result in results.items():
        facts = [_cold_items(result), result["seed"], result["best_epoch"], result["protocol_id"]]
        table.writerow([model, *facts, *(result["test"].get(name, "") for name in names)])
    return stream.getvalue()


def _markdown(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate the metrics at the largest cut-off, and say what was asked."""
    first = next(iter(results.values()))
    facts = first["protocol_facts"]
    k = max(facts["topk"])
    names = [name for name in first["test"] if name.partition("[")[0].endswith(f"@{k}")]
    if facts["cold_start"]["kind"] == "item":
        names = [name for name in names if "[" not in name]  # every item that is tested is cold
    asked = ", ".join(f"{key} {value}" for key, value in facts["cold_start"].items() if key != "candidates")
    lines = [
        f"# Cold start on {first['dataset']}",
        "",
        f"Test of the best validation epoch. {asked}; candidates: {first['candidates']}; "
        f"seeds: {', '.join(sorted({str(result['seed']) for result in results.values()}))}; "
        f"protocol_id {first['protocol_id']}.",
        "",
        f"| Model | scores cold items | {' | '.join(names)} | best epoch |",
        f"|---|---|{'---|' * len(names)}---|",
    ]
    for model, result in results.items():
        cells = [f"{result['test'][name]:.4f}" if name in result["test"] else "" for name in names]
        lines.append(f"| {model} | {_cold_items(result)} | {' | '.join(cells)} | {result['best_epoch']} |")
    cells = [f"{first['chance'][name]:.4f}" if name in first["chance"] else "" for name in names]
    lines.append(f"| chance | | {' | '.join(cells)} | |")
    if any(result.get("scores_cold_items") is False for result in results.values()):
        lines += [
            "",
            "A model that does not score cold items places those without a training row by item order",
        ]
        lines += ["or by chance."]
    return "\n".join([*lines, ""])


def _figure(folder: Path, results: Mapping[str, Mapping[str, Any]], metrics: Sequence[str]) -> list[str]:
    """Draw a panel a metric with a group of bars a model; return the files written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        _tell("no figure: matplotlib is missing; pip install 'recbole-siger[figures]'")
        return []
    first = next(iter(results.values()))
    rule = first["protocol_facts"]["cold_start"]
    wanted = ["[cold]"] if rule["kind"] == "item" else list(GROUPS)
    groups = [
        name for name in wanted if all(f"{metrics[0]}{name}" in one["test"] for one in results.values())
    ]
    figure = Figure(figsize=(3.4 * len(metrics), 2.6), layout="constrained")
    for axes, metric in zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True):
        _bars(axes, results, metric, groups)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=4, fontsize=7, frameon=False)
    noun = "users" if rule["kind"] == "user" else "items"
    limit = f"{noun} with at most {rule.get('max_train')} training rows"
    cold = f"{rule['ratio']:.0%} of the items" if rule["kind"] == "item" else limit
    title = f"{first['dataset']}, candidates: {first['candidates']}; cold: {cold}"
    figure.suptitle(title, fontsize=8, x=0.01, ha="left")
    names = ["cold_start.png", "cold_start.svg"]
    for name in names:
        with atomic_path(folder / name) as temporary:
            figure.savefig(temporary, dpi=200)
    return names


def _bars(axes: Any, results: Mapping[str, Mapping[str, Any]], metric: str, groups: Sequence[str]) -> None:
    width, chance = 0.8 / len(groups), next(iter(results.values()))["chance"]
    for place, group in enumerate(groups):
        label = GROUPS[group]
        left = [x - 0.4 + width * (place + 0.5) for x in range(len(results))]
        height = [result["test"][f"{metric}{group}"] for result in results.values()]
        bars = axes.bar(left, height, width * 0.92, label=label, color=COLOURS[label])
        axes.bar_label(
            bars,
            [f"{value:.3f}".lstrip("0") for value in height],
            fontsize=6,
            padding=1,
            zorder=4,
            bbox=_WHITE,
        )
        if f"{metric}{group}" in chance:
            ends = ([x - width / 2 for x in left], [x + width / 2 for x in left])
            name = "chance" if group == groups[-1] else None
            axes.hlines(
                [chance[f"{metric}{group}"]] * len(left), *ends, "black", ":", lw=1, zorder=3, label=name
            )
    axes.set_xticks(range(len(results)), list(results), fontsize=7)
    name, _, k = metric.partition("@")
    axes.set_ylabel(f"{'Recall' if name == 'recall' else name.upper()}@{k} (test)", fontsize=8)
    axes.tick_params(axis="y", labelsize=7)
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)
