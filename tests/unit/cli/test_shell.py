"""A shell completes commands, options, keys of the configuration and model names."""

from __future__ import annotations

import shutil

import pytest

from recbole_siger.cli import main
from recbole_siger.cli.app import COMPLETE


def completed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> set[str]:
    monkeypatch.setenv(COMPLETE, "zsh_complete")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    assert main([]) == 0
    return {*capsys.readouterr().out.splitlines()[1::3]}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("recbole-siger re", {"resume", "report", "recommend", "reproduce"}),
        ("recbole-siger run --model=SIG", {"SIGER"}),
        ("recbole-siger run --model SIG", {"SIGER"}),
        ("recbole-siger compare --models=EASE,SIG", {"EASE,SIGER"}),
        ("recbole-siger run --model=SIGER --co_w", {"--co_weight="}),
        ("recbole-siger run --model=BPR --co_w", set()),
        (
            "recbole-siger extract --image_",
            {"--image_model", "--image_dir", "--image_col", "--image_max_pixels"},
        ),
        ("recbole-siger extract --engine=", {"local", "ray"}),
        ("recbole-siger cache ", {"ls", "clear"}),
        ("recbole-siger run --epochs --model=SIG", {"SIGER"}),
    ],
)
def test_words_are_completed(
    words: str, found: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed(words, monkeypatch, capsys) == found


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    if shell == "bash" and shutil.which("bash") is None:
        pytest.skip("click asks bash for its version")
    assert main(["completion", shell]) == 0
    assert f"{COMPLETE}={shell}_complete" in capsys.readouterr().out
    assert main(["completion", "cmd"]) == 2
    assert "'cmd' is not one of 'bash', 'zsh', 'fish'" in capsys.readouterr().err
