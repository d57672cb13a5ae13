"""A name becomes a class, or a helpful error."""

from __future__ import annotations

import subprocess
import sys

import pytest
from recbole.model.general_recommender import BPR

from recbole_siger import registry
from recbole_siger.errors import UserError
from recbole_siger.model.general_recommender.siger import SIGER
from recbole_siger.registry import MODELS, get_model_class, model_names, recbole_root


@pytest.mark.parametrize("name", sorted(MODELS))
def test_our_models_are_loaded_by_name(name: str) -> None:
    assert get_model_class(name).__name__ == name


def test_ours_and_recboles() -> None:
    assert get_model_class("SIGER") is SIGER
    assert get_model_class("BPR") is BPR


def test_ours_come_first_and_no_name_twice() -> None:
    names = model_names()
    assert names[: len(MODELS)] == list(MODELS)
    assert len(set(names)) == len(names)
    assert {"BPR", "LightGCN", "SASRec", "Random"} <= set(names)


def test_a_model_of_ours_hides_recboles_of_the_same_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "BPR", registry.ModelSpec("SIGER", MODELS["SIGER"].module))
    assert get_model_class("BPR") is SIGER
    assert model_names().count("BPR") == 1


@pytest.mark.parametrize(("word", "meant"), [("SIGR", "SIGER"), ("lightgcn", "LightGCN"), ("siger", "SIGER")])
def test_an_unknown_name_is_answered_with_the_nearest(word: str, meant: str) -> None:
    with pytest.raises(UserError) as caught:
        get_model_class(word)
    assert str(caught.value) == (
        f"Unknown model {word!r}; did you mean `{meant}`? (all: `recbole-siger models`)"
    )


def test_a_name_like_none() -> None:
    with pytest.raises(UserError, match=r"^Unknown model 'qqqqqq' \(all: `recbole-siger models`\)$"):
        get_model_class("qqqqqq")


def test_names_are_listed_without_importing_recbole() -> None:
    code = "import sys, recbole_siger.registry as r; r.model_names(); print('recbole' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_absent_recbole_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (recbole_root() / "properties" / "overall.yaml").is_file()
    monkeypatch.setattr(registry.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="RecBole is not installed"):
        recbole_root()
