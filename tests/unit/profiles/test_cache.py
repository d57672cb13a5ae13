"""Answers survive a crash; a torn line does not count and spoils nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from recbole_siger.errors import UserError
from recbole_siger.profiles.cache import AnswerCache


def fill(path: Path, *keys: str) -> None:
    with AnswerCache(path) as cache:
        for key in keys:
            cache.add(key, {"text": f"answer ü to {key}"})


def test_answers_are_there_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "answers.jsonl"
    fill(path, "a", "b")
    with AnswerCache(path) as cache:
        assert {key: one["text"] for key, one in cache.answers.items()} == {
            "a": "answer ü to a",
            "b": "answer ü to b",
        }


@pytest.mark.parametrize("n_lost", [1, 2, 9, 30])
def test_a_torn_last_line_is_forgotten_and_overwritten(tmp_path: Path, n_lost: int) -> None:
    path = tmp_path / "answers.jsonl"
    fill(path, "a", "b")
    whole = path.read_bytes()
    path.write_bytes(whole[:-n_lost])
    with AnswerCache(path) as cache:
        assert list(cache.answers) == ["a"]
        cache.add("b", {"text": "answer ü to b"})
    assert path.read_bytes() == whole


def test_a_damaged_line_within_is_named(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    fill(path, "a", "b")
    path.write_bytes(b'{"key": 1\n' + path.read_bytes())
    with pytest.raises(UserError, match="line 1 is damaged"):
        AnswerCache(path)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerCache(path) as cache:
        cache.add("a", {"text": "x"})
        with pytest.raises(UserError, match="another process"):
            AnswerCache(path)
    fill(path, "b")


def test_nothing_answered_leaves_nothing(tmp_path: Path) -> None:
    with AnswerCache(tmp_path / "answers.jsonl"):
        pass
    assert list(tmp_path.iterdir()) == []
