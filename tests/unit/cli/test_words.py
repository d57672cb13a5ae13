"""Words are brought into one spelling: keys, values and words without a key."""

from __future__ import annotations

from typing import Any

import pytest

from recbole_siger.cli.words import single_values, split_words
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.registry import recbole_root


@pytest.mark.parametrize(
    ("words", "positional", "found"),
    [
        (["--a=1", "--b=x=y", "--c="], [], [("a", "1"), ("b", "x=y"), ("c", "")]),
        (["--a", "1", "--b", "-1"], [], [("a", "1"), ("b", "-1")]),
        (["-m", "BPR", "-d", "ml-100k"], [], [("model", "BPR"), ("dataset", "ml-100k")]),
        (["dir", "--a=1", "other"], ["dir", "other"], [("a", "1")]),
        (["--flag", "dir", "--a=1"], ["dir"], [("flag", "True"), ("a", "1")]),
        (["--flag=False"], [], [("flag", "False")]),
        (["--a-b=c-d", "--a_b", "e"], [], [("a_b", "c-d"), ("a_b", "e")]),
        ([], [], []),
    ],
)
def test_words_become_keys_and_values(words: list[str], positional: list[str], found: list[Any]) -> None:
    flags = "flag".__eq__
    assert split_words(words, flags=flags, positional=True) == (positional, found)


def test_keys_of_recbole_with_a_dash_are_known() -> None:
    folder = recbole_root() / "properties" / "model"
    keys = {key for file in folder.glob("*.yaml") for key in read_yaml(file) if "-" in key}
    assert keys
    for key in keys:
        for typed in (key, key.replace("-", "_")):
            assert split_words([f"--{typed}=True"]) == ([], [(key, "True")])


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--epochs"], "--epochs has no value; write --epochs=VALUE"),
        (["--epochs", "--seed=1"], "--epochs has no value"),
        (["-x=1"], "cannot read '-x=1'; write --key=value"),
        (["--=1"], "cannot read '--=1'"),
        (["--"], "cannot read '--'"),
    ],
)
def test_words_that_cannot_be_read(words: list[str], part: str) -> None:
    with pytest.raises(UserError, match=r"^command line: ") as caught:
        split_words(words)
    assert part in str(caught.value)


def test_a_key_twice() -> None:
    assert single_values([("a", "1"), ("a", "1"), ("b", "2")]) == {"a": "1", "b": "2"}
    with pytest.raises(UserError, match="--a is given twice, as '1' and '2'; keep one"):
        single_values([("a", "1"), ("b", "2"), ("a", "2")])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--out", "a", "b", "--k=1"], [("out", "a"), ("out", "b"), ("k", "1")]),
        (["--out=a", "b", "--out", "c"], [("out", "a"), ("out", "b"), ("out", "c")]),
    ],
)
def test_a_list_takes_the_words_up_to_the_next_key(words: list[str], found: list[Any]) -> None:
    assert split_words(words, lists=("out",)) == ([], found)


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--flag"], "True"),
        (["--flag", "--k=1"], "True"),
        (["--flag", "no", "--k=1"], "no"),
        (["--flag", "0"], "0"),
        (["--flag=maybe"], "maybe"),
    ],
)
def test_a_flag_takes_a_boolean_where_no_word_stands_alone(words: list[str], value: str) -> None:
    assert split_words(words, flags="flag".__eq__)[1][0] == ("flag", value)


def test_a_flag_never_takes_a_folder() -> None:
    assert split_words(["--flag", "1"], flags="flag".__eq__, positional=True) == (["1"], [("flag", "True")])
    assert split_words(["--flag", "dir"], flags="flag".__eq__) == (["dir"], [("flag", "True")])
