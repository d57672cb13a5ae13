"""JSON files that may come from anyone: bounded size, the expected form, one error line."""

from __future__ import annotations

import json
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recbole_siger.errors import UserError

__all__ = ["MAX_BYTES", "check_form", "is_finite", "read_bounded", "read_json", "read_json_lines"]

MAX_BYTES = 256 * 2**20
"""Size above which a text file of a run or of a search is refused, in bytes."""

_NAMES: dict[Any, str] = {
    float: "a number",
    int: "an integer",
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "a list",
    None: "null",
}

Form = type | None | tuple[Any, ...] | Mapping[str, Any] | list[Any]
"""A type, where ``float`` is a finite number and ``int`` has 64 bits; a tuple of forms of which one must fit;
``{key: form}``, where ``"key?"`` may be absent; ``{"*": form}`` for a mapping with any keys and
``{"+": form}`` for one with at least one key; ``[form]`` for a list."""


def read_bounded(file: Path, fix: str, *, max_bytes: int = MAX_BYTES) -> str:
    """Read a UTF-8 text file of a bounded size; line ends are not changed.

    Args:
        file: The file; a pipe or a device is refused.
        fix: What the user can do about a damaged file.
        max_bytes: Largest size.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is not a plain file, is too large, or is not UTF-8.
    """
    try:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file}: damaged: not a plain file; {fix}")
        if status.st_size > max_bytes:
            raise UserError(f"{file}: damaged: {status.st_size:,} bytes, more than {max_bytes:,}; {fix}")
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}; {fix}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: damaged: not UTF-8 at byte {error.start:,}; {fix}") from None


def read_json(file: Path, form: Form, fix: str, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read a JSON file and check its form.

    Args:
        file: The file.
        form: The form that the content must have, see :data:`Form`.
        fix: What the user can do about a damaged file.
        max_bytes: Largest size.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is not JSON of this form; the line names the file and the key.
    """
    content = _parse(read_bounded(file, fix, max_bytes=max_bytes), str(file), fix)
    check_form(content, form, str(file), fix)
    return content


def read_json_lines(
    file: Path, form: Form, fix: str, *, first: int | None = None, max_bytes: int = MAX_BYTES
) -> list[Any]:
    """Read the first lines of a file with one JSON value a line, by default all; see :func:`read_json`."""
    values = []
    for number, line in enumerate(read_bounded(file, fix, max_bytes=max_bytes).splitlines()[:first], start=1):
        where = f"{file}, line {number:,}"
        values.append(_parse(line, where, fix))
        check_form(values[-1], form, where, fix)
    return values


def _parse(text: str, where: str, fix: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise UserError(f"{where}: damaged: {reason[:200]}; {fix}") from None


def check_form(value: Any, form: Form, where: str, fix: str) -> None:
    """Raise a UserError unless a value has a form.

    >>> check_form({"a": [1.5, None]}, {"a": [(float, None)], "b?": str}, "x.json", "train again")
    >>> check_form({"a": "b"}, {"a": float}, "x.json", "train again")
    Traceback (most recent call last):
    recbole_siger.errors.UserError: x.json: damaged: a is 'b', expected a number; train again
    """
    problem = _problem(value, form, "")
    if problem:
        raise UserError(f"{where}: damaged: {problem}; {fix}")


def _problem(value: Any, form: Form, key: str) -> str:
    """Return what is wrong with a value, or an empty text."""
    if isinstance(form, tuple):
        return "" if any(not _problem(value, one, key) for one in form) else _mismatch(value, form, key)
    if isinstance(form, Mapping):
        return _problem_of_mapping(value, form, key)
    if isinstance(form, list):
        if not isinstance(value, list):
            return _mismatch(value, form, key)
        return next(filter(None, (_problem(v, form[0], f"{key}[{i}]") for i, v in enumerate(value))), "")
    return "" if _fits(value, form) else _mismatch(value, form, key)


def _problem_of_mapping(value: Any, form: Mapping[str, Any], key: str) -> str:
    if not isinstance(value, dict):
        return _mismatch(value, form, key)
    for name in form:
        if name == "+" and not value:
            return f"{key or 'the content'} is empty"
        if name not in ("*", "+") and not name.endswith("?") and name not in value:
            return f"{f'{key}.' if key else ''}{name} is missing"
    for name, one in value.items():
        inner = form.get(name, form.get(f"{name}?", form.get("*", form.get("+"))))
        if inner is not None and (problem := _problem(one, inner, f"{key}.{name}" if key else name)):
            return problem
    return ""


def _fits(value: Any, form: Any) -> bool:
    if form is None:
        return value is None
    if form is float:
        return is_finite(value)
    if form is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63
    return form is object or isinstance(value, form)


def is_finite(value: Any) -> bool:
    """Return whether a value of JSON is a number within the range of 64-bit floats.

    >>> [is_finite(value) for value in (3, 0.5, float("nan"), float("inf"), 10**400, True, "3")]
    [True, True, False, False, False, False, False]
    """
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _mismatch(value: Any, form: Form, key: str) -> str:
    shown = repr(value) if isinstance(value, str | int | float | bool | None) else f"a {type(value).__name__}"
    is_outside = type(value) in (int, float) and not abs(value) < 2**63
    limits = " (finite, in 64 bits)" if is_outside else ""
    return f"{key or 'the content'} is {shown[:80]}, expected {_name(form)}{limits}"


def _name(form: Form) -> str:
    if isinstance(form, tuple):
        return " or ".join(_name(one) for one in form)
    if isinstance(form, Mapping):
        return "an object"
    if isinstance(form, list):
        return "a list"
    return _NAMES.get(form, str(form))
