"""List new features in the YAML file of a dataset, so that a run finds them without an option."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

import yaml

from recbole_siger.common.files import write_text
from recbole_siger.common.locks import LOCK, waiting_for
from recbole_siger.errors import UserError
from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import Loader, YamlError, load_yaml, read_yaml

__all__ = ["KEYS", "Noun", "check_registration", "register_feature", "with_listed"]

Noun = Literal["item", "user"]

KEYS: dict[str, str] = {"item": "features", "user": "user_features"}
"""What a row of a feature file belongs to -> the key that lists such features."""


def check_registration(folder: Path, dataset: str, noun: Noun, name: str) -> None:
    """Raise the error that :func:`register_feature` would raise; nothing is written.

    Raises:
        UserError: If the file cannot be read or edited, or the name is a feature of the other kind.
    """
    _edited(folder / f"{dataset}.yaml", dataset, noun, name)


def register_feature(folder: Path, dataset: str, noun: Noun, name: str) -> str:
    """List a feature in ``<folder>/<dataset>.yaml`` and return a line for the user.

    The rest of the file keeps its bytes, comments included. A name that is listed already is not added again.
    A missing file is created. The file is replaced as a whole, and one process at a time replaces it.

    Args:
        folder: Folder of the dataset.
        dataset: Name of the dataset.
        noun: What a row of the feature file belongs to.
        name: Name of the feature: the file is ``<dataset>.<name>.npy``.

    Raises:
        UserError: As :func:`check_registration`.
    """
    path = folder / f"{dataset}.yaml"
    with waiting_for(folder / f".{path.name}{LOCK}", lambda: None, lambda: False):
        text = _edited(path, dataset, noun, name)
        if text is not None:
            write_text(Path(os.path.realpath(path)), text)  # a link stays a link
    key = KEYS[noun]
    if (shipped := _shipped(dataset)) and key in shipped and not _lists(shipped[key], name):
        return (
            f"note: properties/dataset/{dataset}.yaml sets {key} and overrides {path}; add {name!r} there, "
            f"or set --{key}"
        )
    return f"{path}: {key} " + (f"lists {name} already" if text is None else f"lists {name} now")


def _edited(path: Path, dataset: str, noun: Noun, name: str) -> str | None:
    """Return the new text of the file; None if the name is listed already."""
    values: dict[str, Any] = {}
    text = f"# {dataset}\n"
    if path.exists() or path.is_symlink():
        values = read_yaml(path)
        text = path.read_bytes().decode("utf-8")
    key = KEYS[noun]
    other: Noun = "user" if noun == "item" else "item"
    if _lists(values.get(KEYS[other]), name):
        raise UserError(
            f"{path}: {name!r} is a feature of {other}s ({KEYS[other]}); choose another name with --modality"
        )
    if _lists(values.get(key), name):
        return None
    try:
        return with_listed(text, key, name, f"(list) Features of {noun}s: {dataset}.<name>.npy and .ids.")
    except ValueError as error:
        raise UserError(f"{path}: {key}: {error}; add {name!r} to the list {key} by hand") from None


def _shipped(dataset: str) -> dict[str, Any]:
    """Return the settings of a dataset under ``properties/``, which override those of its folder."""
    path = find_resource(f"properties/dataset/{dataset}.yaml")
    return {} if path is None else read_yaml(path)


def _lists(value: Any, name: str) -> bool:
    return isinstance(value, list | dict) and name in value


def with_listed(text: str, key: str, name: str, meaning: str = "") -> str:
    r"""Add a name to a list, or to a mapping, of a YAML text; all other characters stay as they are.

    Args:
        text: A YAML mapping, or an empty document.
        key: The key of the list; without the key, a line is added at the end.
        name: The new entry, which the list does not have.
        meaning: Comment of an added line.

    Raises:
        ValueError: If the value is no list and no mapping, or the text has a form that is not edited.

    Example:
        >>> with_listed("seed: 7  # mine\nfeatures: [image]  # given\n", "features", "text")
        'seed: 7  # mine\nfeatures: [image, text]  # given\n'
        >>> with_listed("seed: 7", "features", "no", "(list) Features.")
        'seed: 7\nfeatures: ["no"]  # (list) Features.\n'
    """
    old = load_yaml(text) or {}
    before = old.get(key)
    if before is not None and not isinstance(before, list | dict):
        raise ValueError(f"{before!r} is not a list")
    word = name if load_yaml(name) == name else json.dumps(name)
    entry = f"{word}: null" if isinstance(before, dict) else word
    end = "\r\n" if "\r\n" in text else "\n"
    node = _value_node(text, key)
    if node is None:
        comment = f"  # {meaning}" if meaning else ""
        gap = "" if not text or text.endswith("\n") else end
        new = f"{text}{gap}{key}: [{word}]{comment}{end}"
    elif isinstance(node, yaml.ScalarNode):
        start, stop = node.start_mark.index, node.end_mark.index
        new = f"{text[:start]}{'' if text[start - 1].isspace() else ' '}[{word}]{text[stop:]}"
    elif node.flow_style:
        new = _in_flow(text, node, entry)
    else:
        new = _in_block(text, node, entry, end)
    after = {**before, name: None} if isinstance(before, dict) else [*(before or []), name]
    try:
        same = load_yaml(new) == {**old, key: after}
    except YamlError:
        same = False
    if not same:
        raise ValueError("this form of YAML cannot be edited")
    return new


def _value_node(text: str, key: str) -> Any:
    """Return the node of a key's value; None if the text has no such key."""
    root = yaml.compose(text, Loader=Loader)
    pairs = root.value if isinstance(root, yaml.MappingNode) else []
    return next((value for name, value in pairs if name.value == key), None)


def _in_flow(text: str, node: Any, entry: str) -> str:
    """Add an entry before the closing bracket."""
    place = node.end_mark.index - 1
    comma = ""
    if node.value:
        after_last = text[_last(node).end_mark.index : place]
        comma = " " if "," in re.sub("#.*", "", after_last) else ", "
    return f"{text[:place]}{comma}{entry}{text[place:]}"


def _last(node: Any) -> Any:
    return node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]


def _in_block(text: str, node: Any, entry: str, end: str) -> str:
    """Add a line after the last entry, with the indentation of the list."""
    line_end = text.find("\n", _last(node).end_mark.index)
    place = len(text) if line_end < 0 else line_end + 1
    mark = "" if isinstance(node, yaml.MappingNode) else "- "
    gap = "" if line_end >= 0 else end
    return f"{text[:place]}{gap}{' ' * node.start_mark.column}{mark}{entry}{end}{text[place:]}"
