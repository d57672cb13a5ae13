"""The command line: arguments only, no logic."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from recbole_siger.errors import UserError

__all__ = ["main"]

USAGE = """\
recbole-siger COMMAND

  run --model=SIGER --dataset=ml-100k [--config_files "a.yaml b.yaml"] [--key=value ...] [--dry_run]
                        train, select on validation, test, and leave a run folder
  resume RUN_DIR        continue an interrupted run
  evaluate RUN_DIR      test a run again, in a fresh process
                        both take --data_path=FOLDER where the data have moved
  config MODEL [--dataset=NAME]
                        every option of a model: default, range and meaning
  models                every model name
  import-mmrec DIR --name=NAME [--feature MODALITY=FILE ...] [--data_path=dataset] [--overwrite]
                        turn a folder in MMRec's layout into a dataset
  cache ls|clear [--cache_dir=FOLDER]
                        list or delete the graphs that earlier runs have built
  doctor [--json]       check this installation
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for a failed check, 2 for bad input, or 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] == "help" or {"-h", "--help"} & set(words):
        print(USAGE, end="")
        return 0 if words else 2
    command = _COMMANDS.get(words[0])
    try:
        if command is None:
            from recbole_siger.params import did_you_mean

            raise UserError(
                f"unknown command {words[0]!r}{did_you_mean(words[0], _COMMANDS)}; see `recbole-siger --help`"
            )
        return command(words[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; `recbole-siger resume RUN_DIR` continues a run", file=sys.stderr)
        return 130


def _options(words: Sequence[str], flags: Sequence[str] = ()) -> tuple[list[str], list[tuple[str, str]]]:
    """Split words into positional ones and ``(key, value)`` of ``--key=value``, ``--key value`` or a flag."""
    short = {"-m": "--model", "-d": "--dataset"}
    positional: list[str] = []
    found: list[tuple[str, str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            positional.append(word)
            continue
        key, equals, value = short.get(word, word).partition("=")
        name = key.removeprefix("--")
        if not key.startswith("--") or not name:
            raise UserError(f"command line: cannot read {word!r}; write --key=value")
        if not equals and name in flags:
            value = "True"
        elif not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"command line: --{name} has no value; write --{name}=VALUE")
            value = rest.pop(0)
        found.append((name, value))
    return positional, found


def _single(found: Sequence[tuple[str, str]]) -> dict[str, str]:
    values: dict[str, str] = {}
    for key, value in found:
        if values.setdefault(key, value) != value:
            raise UserError(
                f"command line: --{key} is given twice, as {values[key]!r} and {value!r}; keep one"
            )
    return values


def _one_run(words: Sequence[str], command: str) -> tuple[Path, str | None]:
    positional, found = _options(words)
    values = _single(found)
    if len(positional) != 1 or set(values) - {"data_path"}:
        raise UserError(f"command line: write `recbole-siger {command} RUN_DIR [--data_path=FOLDER]`")
    return Path(positional[0]), values.get("data_path")


def _run(words: Sequence[str]) -> int:
    positional, found = _options(words, flags=("dry_run",))
    if positional:
        raise UserError(f"command line: cannot place {positional[0]!r}; write --key=value")
    values = _single(found)
    dry_run = values.pop("dry_run", "False").lower() in ("true", "1", "yes")
    files = values.pop("config_files", "").split()
    model, dataset = values.pop("model", None), values.pop("dataset", None)
    if dry_run:
        from recbole_siger.describe import print_effective

        print_effective(model, dataset, files, values)
        return 0
    from recbole_siger.quick_start import run_experiment

    run_experiment(model, dataset, files, command_line=values)
    return 0


def _resume(words: Sequence[str]) -> int:
    from recbole_siger.quick_start import resume_run

    resume_run(*_one_run(words, "resume"))
    return 0


def _evaluate(words: Sequence[str]) -> int:
    run_dir, data_path = _one_run(words, "evaluate")
    from recbole_siger.quick_start import evaluate_run, format_metrics

    print(f"test   {format_metrics(evaluate_run(run_dir, data_path))}")
    return 0


def _config(words: Sequence[str]) -> int:
    positional, found = _options(words)
    values = _single(found)
    if len(positional) != 1 or set(values) - {"dataset"}:
        raise UserError("command line: write `recbole-siger config MODEL [--dataset=NAME]`")
    from recbole_siger.describe import print_options

    print_options(positional[0], values.get("dataset"))
    return 0


def _models(words: Sequence[str]) -> int:
    if words:
        raise UserError("command line: write `recbole-siger models`")
    from recbole_siger.registry import MODELS, model_names

    for name in model_names():
        print(f"{name:20} {'recbole_siger' if name in MODELS else 'recbole'}")
    return 0


def _import_mmrec(words: Sequence[str]) -> int:
    positional, found = _options(words, flags=("overwrite",))
    features = {}
    for _, pair in (entry for entry in found if entry[0] == "feature"):
        modality, equals, file = pair.partition("=")
        if not equals or not modality or not file:
            raise UserError(f"command line: --feature {pair!r}; write --feature MODALITY=FILE")
        if modality in features:
            raise UserError(f"command line: --feature {modality} is given twice; keep one")
        features[modality] = Path(file)
    values = _single([entry for entry in found if entry[0] != "feature"])
    if len(positional) != 1 or "name" not in values or set(values) - {"name", "data_path", "overwrite"}:
        raise UserError(
            "command line: write `recbole-siger import-mmrec DIR --name=NAME [--feature MODALITY=FILE]`"
        )
    from recbole_siger.data.mmrec import import_mmrec

    import_mmrec(
        Path(positional[0]),
        values["name"],
        data_path=Path(values.get("data_path", "dataset")),
        features=features,
        overwrite=values.get("overwrite", "False").lower() == "true",
        report=print,
    )
    return 0


def _cache(words: Sequence[str]) -> int:
    positional, found = _options(words)
    values = _single(found)
    if positional not in (["ls"], ["clear"]) or set(values) - {"cache_dir"}:
        raise UserError("command line: write `recbole-siger cache ls|clear [--cache_dir=FOLDER]`")
    from recbole_siger.graph_cache import GraphCache

    graphs = GraphCache(values.get("cache_dir"))
    for line in graphs.report() if positional == ["ls"] else [graphs.clear()]:
        print(line)
    return 0


def _doctor(words: Sequence[str]) -> int:
    if set(words) - {"--json"}:
        raise UserError("command line: write `recbole-siger doctor [--json]`")
    from recbole_siger import doctor

    return doctor.main(as_json=bool(words))


_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": _run,
    "resume": _resume,
    "evaluate": _evaluate,
    "config": _config,
    "models": _models,
    "import-mmrec": _import_mmrec,
    "cache": _cache,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
