"""What is declared of options: types and ranges by dataclasses, defaults and meanings by YAML files.

Everything is read from the sources as text. Importing the dataclasses would import torch and RecBole, and
`--help` would take seconds.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.registry import MODELS, recbole_root

__all__ = ["Declared", "option_rows", "params_of_model", "read_dataclass", "read_meanings", "shipped_files"]

_PACKAGE = Path(__file__).resolve().parents[1]
_COMMENT = re.compile(r"^(\w+):.*?#\s*\(([^)]*)\)\s*(.*?)\s*$")
_NAMES = {"tuple": "list"}


@dataclass(frozen=True)
class Declared:
    """What is declared about one option.

    Attributes:
        name: Key of the option.
        kind: Type in the words of the YAML files: ``str``, ``int``, ``float``, ``bool``, ``list``, ``dict``.
        range: Interval or choices; "" where the option has none.
        default: Default value as text; "" where it is None or the option has none.
        meaning: One sentence.
    """

    name: str
    kind: str = "str"
    range: str = ""
    default: str = ""
    meaning: str = ""

    @property
    def choices(self) -> tuple[str, ...]:
        """The words of ``range`` if it lists choices; else none.

        >>> Declared("engine", range="local | ray").choices, Declared("k", range="[1, inf)").choices
        (('local', 'ray'), ())
        """
        return tuple(self.range.split(" | ")) if " | " in self.range else ()


def read_meanings(path: Path) -> dict[str, tuple[str, str]]:
    """Read ``key: value  # (type) meaning`` lines as ``{key: (type, meaning)}``.

    A key without such a comment has two empty texts.
    """
    found: dict[str, tuple[str, str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := _COMMENT.match(line):
            found[match[1]] = (match[2], match[3])
        elif key := re.match(r"^(\w+):", line):
            found[key[1]] = ("", "")
    return found


def shipped_files(relative: str) -> list[Path]:
    """Return RecBole's YAML file and ours of one name below ``properties/``, where they exist."""
    paths = (recbole_root() / "properties" / relative, find_resource(f"properties/{relative}"))
    return [path for path in paths if path is not None and path.is_file()]


def read_dataclass(module: str, name: str) -> dict[str, Declared]:
    """Read the fields of a dataclass of this package and of its bases: name, type, range and default.

    Args:
        module: The module's name below the package, such as ``extract.run``.
        name: The dataclass's name.
    """
    tree = _tree(module)
    (found,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    inherited: dict[str, Declared] = {}
    for base in map(ast.unparse, found.bases):
        if home := _home(tree, module, base):
            inherited |= read_dataclass(home, base)
    return inherited | {
        field.target.id: _declared(field)
        for field in found.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }


def params_of_model(model: str) -> dict[str, Declared]:
    """Return the typed options of a model of this package; none for a model of RecBole."""
    if model not in MODELS:
        return {}
    module = MODELS[model].module.partition(".")[2]
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.ClassDef) and node.name == model:
            for line in node.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "params_class":
                    return read_dataclass(module, ast.unparse(line.value))
    return {}


def option_rows(
    files: list[Path], typed: Mapping[str, Declared], *, typed_only: bool = False
) -> list[Declared]:
    """Return one row for each option of YAML files: the last file decides default, type and meaning.

    Args:
        files: YAML files, weakest first.
        typed: What the dataclass declares; its range is used, and its type where a comment has none.
        typed_only: Leave out keys that the dataclass does not declare, except those of the last file.
    """
    meanings: dict[str, tuple[str, str]] = {}
    defaults: dict[str, object] = {}
    for path in files:
        meanings |= {
            key: words for key, words in read_meanings(path).items() if words[1] or key not in meanings
        }
        defaults |= read_yaml(path)
    own = read_meanings(files[-1]) if files else {}
    keys = [key for key in {**own, **meanings} if not typed_only or key in typed or key in own]
    return [
        Declared(
            key,
            meanings[key][0] or typed.get(key, Declared(key)).kind,
            typed.get(key, Declared(key)).range,
            "" if defaults[key] is None else str(defaults[key]),
            meanings[key][1],
        )
        for key in keys
    ]


def _home(tree: ast.Module, module: str, name: str) -> str | None:
    """Return the module of this package, below the package, that defines a class; None if none does."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module
        if isinstance(node, ast.ImportFrom) and name in [one.name for one in node.names]:
            package, _, below = str(node.module).partition(".")
            return below if package == _PACKAGE.name else None
    return None


def _tree(module: str) -> ast.Module:
    path = _PACKAGE / f"{module.replace('.', '/')}.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def _declared(field: ast.AnnAssign) -> Declared:
    """Read one field, such as ``batch_size: int = bounded("[1, inf)")``."""
    kind, choices = _kind(field.annotation)
    interval, default = "", ""
    if isinstance(field.value, ast.Call) and ast.unparse(field.value.func) == "bounded":
        interval = ast.literal_eval(field.value.args[0])
    elif isinstance(field.value, ast.Constant) and field.value.value is not None:
        default = str(field.value.value)
    return Declared(ast.unparse(field.target), kind, choices or interval, default)


def _kind(annotation: ast.expr) -> tuple[str, str]:
    """Return the type's name and the choices of an annotation such as ``Literal["a", "b"] | None``."""
    if isinstance(annotation, ast.BinOp):  # X | None
        return _kind(annotation.left)
    if isinstance(annotation, ast.Subscript):
        if ast.unparse(annotation.value) == "Literal":
            values = ast.literal_eval(annotation.slice)
            values = values if isinstance(values, tuple) else (values,)
            return type(values[0]).__name__, " | ".join(map(str, values))
        annotation = annotation.value
    name = ast.unparse(annotation)
    return _NAMES.get(name, name), ""
