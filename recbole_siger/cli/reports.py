"""Commands that look at runs and datasets: pages, figures, checks."""

from __future__ import annotations

from collections.abc import Callable

import click

from recbole_siger.cli.check import check_run
from recbole_siger.cli.command import Command, option
from recbole_siger.cli.common import config_files, dataset, keys_of_search, model
from recbole_siger.errors import UserError
from recbole_siger.options.command import files_of

__all__ = ["COMMANDS"]

PAGE = "`recbole-siger report RUN_DIR ... [--out=report.html]`; see `recbole-siger report --help`"


def report_command() -> Command:
    """Return the command ``report``."""
    return Command(
        "report",
        _report,
        [
            click.Argument(["words"], nargs=-1, metavar="RUN_DIR ..."),
            option(
                "out",
                "File to write: a page is .html, a figure .png, .svg or .pdf.",
                metavar="FILE",
                repeated=True,
            ),
            option("vectors", "Whether the page has a map of item vectors.", kind="bool", default="False"),
            option(
                "data_path", "Folder of the datasets, if the data have moved since the run.", metavar="FOLDER"
            ),
            dataset("overlap: dataset."),
            config_files("overlap: YAML files of options, separated by blanks."),
        ],
        usage="RUN_DIR ... | curves RUN_DIR | vectors RUN_DIR | overlap --dataset=NAME [--key=value ...]",
        summary="Write one offline page of runs, or one figure: curves, vectors or graph overlap.",
        example="recbole-siger report runs/ml-100k/SIGER-20260101-120000-seed2020 --out=report.html",
        keys=True,
        note="overlap takes any key of SIGER's configuration too, such as --n_co_neighbors=3.",
    )


def _report(
    words: tuple[str, ...],
    out: tuple[str, ...],
    vectors: bool | None,
    data_path: str | None,
    dataset: str | None,
    config_files: str | None,
    keys: dict[str, str],
) -> None:
    kind, rest = (words[0], words[1:]) if words else ("", ())
    if kind == "overlap" and not rest:
        _overlap(
            dataset, files_of(config_files), out, {**keys, **({"data_path": data_path} if data_path else {})}
        )
        return
    others = {"dataset": dataset, "config_files": config_files, **keys}
    wrong = [name for name, value in others.items() if value is not None]
    if kind in ("curves", "vectors"):
        if len(rest) != 1 or not out or wrong or vectors or (kind == "curves" and data_path):
            raise UserError(f"command line: write `recbole-siger report {kind} RUN_DIR --out=NAME.pdf`")
        from recbole_siger.report import page

        if kind == "curves":
            page.report_curves(rest[0], out)
        else:
            page.report_vectors(rest[0], out, data_path)
    elif not words or len(out) > 1 or wrong:
        problem = f"a page has no option --{wrong[0]}; " if wrong else ""
        raise UserError(f"command line: {problem}write {PAGE}")
    else:
        from recbole_siger.report import page

        page.report_page(words, *out, vectors=bool(vectors), data_path=data_path)


def _overlap(dataset: str | None, files: list[str], out: tuple[str, ...], keys: dict[str, str]) -> None:
    if not dataset:
        raise UserError("command line: report overlap requires --dataset; see `recbole-siger report --help`")
    check_run("SIGER", dataset, files, keys)
    from recbole_siger.report import overlap

    overlap.report_overlap(dataset, keys, files, out)


def audit_command() -> Command:
    """Return the command ``audit``."""
    which = "Model whose graphs are checked; by default SIGER if the dataset lists features, else LightGCN."
    return Command(
        "audit",
        _audit,
        [
            dataset("Dataset to check; by default that of the run."),
            option("run", "Finished run to check; its own configuration is used.", metavar="DIR"),
            model(which),
            config_files(),
            option("json", "Whether JSON is printed.", kind="bool", default="False"),
        ],
        usage="--dataset=NAME | --run=DIR [--json] [--key=value ...]",
        summary="Check a dataset, a model's graphs and a run against what an honest evaluation needs.",
        example="recbole-siger audit --dataset=ml-100k",
        keys=True,
        sections=keys_of_search,
        note="The exit code is 1 if a check fails. Any key of the configuration is an option too.",
    )


def _audit(
    dataset: str | None,
    run: str | None,
    model: str | None,
    config_files: str | None,
    json: bool | None,
    keys: dict[str, str],
) -> int:
    files = files_of(config_files)
    if not run:
        check_run(model or (None if files else "SIGER"), dataset, files, keys)
    from recbole_siger.audit.checks import print_audit

    return print_audit(
        dataset, run, {**({"model": model} if model else {}), **keys}, as_json=bool(json), files=files
    )


COMMANDS: dict[str, Callable[[], Command]] = {"report": report_command, "audit": audit_command}
