"""YAML of anybody is read as data: one line for each kind of bad text, in bounded time and memory."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from recbole_siger.errors import UserError
from recbole_siger.options import yaml_values
from recbole_siger.options.yaml_values import MAX_BYTES, YamlError, load_yaml, parse_value, read_yaml, shown

BOMB = "a: &a [x, x]\n" + "".join(f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefghijklmnopqrstu", "bcdefghijklmnopqrstuv", strict=True))  # fmt: skip  # noqa: E501

BAD = {
    "an integer that is none": ("epochs: 3\nseed: !!int x\n", ", line 2: 'x' is no int"),
    "an empty integer": ("epochs: !!int ''\n", ", line 1: '' is no int"),
    "a flag that is none": ("saved: [1, !!bool maybe]\n", ", line 1: 'maybe' is no bool"),
    "a number that is none": ("a: {b: !!float x}\n", ", line 1: 'x' is no float"),
    "a date that is none": ("epochs: !!timestamp x\n", ", line 1: 'x' is no timestamp"),
    "5,000 digits": ("epochs: " + "9" * 5000 + "\n", ", line 1: '9999"),
    "deep lists": ("a: " + "[" * 100_000 + "]" * 100_000, ", line 1: exceeded maximum nesting depth"),
    "deep maps": ("".join(" " * i + "a:\n" for i in range(400)), "values are nested more than 100 deep"),
    "many aliases": (BOMB, ": more than 100,000 values, or an alias within itself"),
    "an alias within itself": ("a: &a [*a]\n", ": more than 100,000 values, or an alias within itself"),
    "an unknown alias": ("a: *b\n", ", line 1: "),
    "a list as a key": ("? [a, b]\n: c\n", ", line 1: "),
    "a control character": ("a: \x01\n", ": "),
    "two documents": ("a: 1\n---\nb: 2\n", ", line 2: "),
    "Python": ("a: !!python/object/apply:os.system ['true']\n", ", line 1: "),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_one_short_line_with_its_place(name: str, tmp_path: Path) -> None:
    text, part = BAD[name]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(file)
    message = str(caught.value)
    assert message.startswith(str(file))
    assert part in message
    assert "\n" not in message
    assert len(message) < len(str(file)) + 300
    assert message.endswith("; fix the YAML")
    with pytest.raises(YamlError):
        load_yaml(text)
    assert parse_value(text) == text  # on a command line, text that is no YAML is text


def test_a_pipe_a_large_file_and_a_path_with_nul_are_refused(tmp_path: Path) -> None:
    pipe, large = tmp_path / "pipe", tmp_path / "large.yaml"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * (MAX_BYTES + 1))
    reader = threading.Thread(target=_is_refused, args=(pipe, "is a pipe, a socket or a device"))
    reader.start()
    reader.join(10)
    assert not reader.is_alive()
    _is_refused(large, "cannot be read: 4,194,305 bytes; a configuration has at most 4,194,304")
    _is_refused(Path("/dev/zero"), "is a pipe, a socket or a device")
    _is_refused(tmp_path / "a\0b", "is not the name of a file")


def _is_refused(path: Path, part: str) -> None:
    with pytest.raises(UserError, match=part):
        read_yaml(path)


@pytest.mark.parametrize("text", ["2024-01-31", "2024-13-45", "2024-01-31 10:00:00", "|", ">", "*", "%"])
def test_a_date_and_punctuation_are_text(text: str) -> None:
    assert parse_value(text) in (text, "")
    assert load_yaml(f"'{text}'") == text


def test_a_date_in_a_file_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("note: 2024-13-45\nday: 2024-01-31\n")
    assert read_yaml(tmp_path / "a.yaml") == {"note": "2024-13-45", "day": "2024-01-31"}


def test_both_parsers_of_pyyaml_have_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(yaml_values.yaml.SafeLoader):
        pass

    monkeypatch.setattr(yaml_values, "Loader", Slow)
    for name in ("deep lists", "deep maps", "many aliases", "an alias within itself", "5,000 digits"):
        with pytest.raises(ValueError, match=r"nested|more than|is no int"):
            load_yaml(BAD[name][0])
    assert load_yaml("a: [1, {b: 2}]") == {"a": [1, {"b": 2}]}


def test_a_value_is_shown_in_short() -> None:
    assert shown("a" * 500).endswith("...")
    assert len(shown(["a"] * 500)) == 120
    assert shown(-(10**400)) == "-(an integer of 1,329 bits)"
    assert shown(10**5000).startswith("(an integer of 16,610 bits)")
    assert (shown(7), shown("x"), shown(True)) == ("7", "'x'", "True")


REPEATED = {
    "top": ("lr: 1\nepochs: 2\nlr: 3\n", ", line 3: 'lr' is given twice, first in line 1"),
    "below": ("a:\n  x: 1\n  x: 2\n", ", line 3: 'x' is given twice, first in line 2"),
    "in a line": ("a: {x: 1, x: 2}\n", ", line 1: 'x' is given twice; fix"),
    "in a list": ("a: [1, {x: 1, x: 2}]\n", ", line 1: 'x' is given twice; fix"),
    "as text": ("1: a\n'1': b\n", ", line 2: '1' is given twice"),
    "below an anchor": ("a: &a {x: 1, x: 2}\nb: {<<: *a}\n", ", line 1: 'x' is given twice"),
}


@pytest.mark.parametrize("name", REPEATED)
def test_a_key_that_is_given_twice_is_refused(name: str, tmp_path: Path) -> None:
    text, part = REPEATED[name]
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read_yaml(tmp_path / "mine.yaml")
    assert str(caught.value).startswith(f"{tmp_path / 'mine.yaml'}{part}")


def test_a_key_that_is_given_twice_on_the_command_line() -> None:
    with pytest.raises(UserError, match=r"^command line: k='\{x: 1, x: 2\}': 'x' is given twice; keep one$"):
        parse_value("{x: 1, x: 2}", "command line: k")


def test_a_merge_key_gives_defaults_as_before() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [{<<: *a, y: 4}, {<<: [*a, {x: 5, z: 6}]}, *a, *a]\n"
    value, a = load_yaml(text), {"x": 1, "y": 2}
    assert value == {"a": a, "b": {"x": 3, "y": 2}, "c": [{"x": 1, "y": 4}, {**a, "z": 6}, a, a]}


def test_shipped_files_give_each_key_once() -> None:
    files = [*Path(__file__).parents[3].glob("properties/**/*.yaml")]
    assert len(files) > 50
    for file in files:
        read_yaml(file)
