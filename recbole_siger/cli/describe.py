"""Print the options of a model, and the values that a configuration results in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from recbole_siger.cli.declared import read_meanings, shipped_files
from recbole_siger.common.terminal import build_table, open_console
from recbole_siger.config import Config
from recbole_siger.options.keys import keys_of
from recbole_siger.options.params import options
from recbole_siger.registry import is_shipped, option_files

__all__ = ["print_effective", "print_options"]

# Origins of defaults.
_SHIPPED = ("recbole/properties/", "properties/overall.yaml", "properties/model/")


def print_effective(
    model: str | None, dataset: str | None, files: Sequence[str], values: Mapping[str, str]
) -> None:
    """Print each effective value and its source; nothing is trained or written.

    The values that the dataset's YAML, a file or the command line sets come first, beside the defaults that
    they replace.
    """
    config = Config(model, dataset, files, command_line=values)
    defaults = Config(config["model"], "NAME")  # a dataset without a YAML of its own
    changed = [key for key in sorted(config.origin) if _is_changed(config, key, defaults)]
    console, title = open_console(), f"{config['model']} on {config['dataset']}"
    if changed:
        rows = [[key, _value(config, key), _default(defaults, key), config.origin[key]] for key in changed]
        header = ["key", "value", "default", "from"]
        console.print(build_table(console, f"{title}: values that replace a default", header, rows))
    rest = [[key, _value(config, key), config.origin[key]] for key in sorted({*config.origin} - {*changed})]
    console.print(build_table(console, f"{title}: defaults", ["key", "value", "from"], rest))


def _is_changed(config: Config, key: str, defaults: Config) -> bool:
    """Return whether a value comes from the user or from a dataset's YAML."""
    origin = config.origin[key]
    if origin.startswith("recbole/properties/dataset/"):  # RecBole's files repeat many defaults
        return _value(config, key) != _default(defaults, key)
    return not origin.startswith(_SHIPPED) and origin != defaults.origin.get(key)


def _default(defaults: Config, key: str) -> str:
    return _value(defaults, key) if key in defaults.origin else ""


def _value(config: Config, key: str) -> str:
    """Return a value as the option takes it; RecBole adds the dataset's name to ``data_path``."""
    return str(Path(config["feature_path"]).parent if key == "data_path" else config[key])


def print_options(model: str, dataset: str | None = None) -> None:
    """Print each option of a model with default, type, range and meaning; the model's own come first."""
    config = Config(model, dataset or "NAME")
    ranges = {option.name: option.range for option in config.options()}
    console, listed = open_console(), set[str]()
    for title, meanings in _sources(config):
        skipped = listed | keys_of("unused", "pickle")
        rows = [key for key in meanings if key not in skipped and key in config.origin]
        listed.update(rows)
        if rows:
            header = ["option", "default", "type", "range", "meaning"]
            cells = [
                [key, _value(config, key), meanings[key][0], ranges.get(key, ""), meanings[key][1]]
                for key in rows
            ]
            console.print(build_table(console, title, header, cells))


def _sources(config: Config) -> Iterator[tuple[str, dict[str, tuple[str, str]]]]:
    """Yield title and ``{key: (type, meaning)}`` of each group of options, those of the model first."""
    names = ["overall.yaml", "dataset/sample.yaml"]
    if is_shipped(config.model_class):
        names.insert(0, f"model/{config['model']}.yaml")
    else:
        params_class = getattr(config.model_class, "params_class", None)
        declared = options(params_class) if params_class else []
        meanings = {
            option.name: (getattr(option.type, "__name__", str(option.type)), "") for option in declared
        }
        for _, path in option_files(config.model_class):
            meanings |= read_meanings(path)
        yield config["model"], meanings
    for name in names:
        meanings = {}
        for path in shipped_files(name):
            meanings |= read_meanings(path)
        yield name, meanings
