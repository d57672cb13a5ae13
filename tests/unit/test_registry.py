"""A name becomes a class, or a helpful error."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recbole_siger import compat, registry
from recbole_siger.errors import UserError
from recbole_siger.model.general_recommender.siger import SIGER
from recbole_siger.registry import (
    MODELS,
    check_model_name,
    check_stored_name,
    get_model_class,
    model_name,
    model_names,
    model_packages,
    option_files,
    recbole_root,
    search_file,
    short_names,
)

compat.apply()

from recbole.model.general_recommender import BPR  # noqa: E402  # after the work-arounds

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that writes a package into a folder of ``sys.path``, as pip would install it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(package: str, source: str, entry_points: str = "") -> Path:
        folder, info = tmp_path / package, tmp_path / f"{package}-1.0.dist-info"
        for made in (folder, info):
            made.mkdir()
        (folder / "__init__.py").write_text("")
        (folder / "models.py").write_text(source)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{entry_points}")
        monkeypatch.delitem(sys.modules, package, raising=False)
        monkeypatch.delitem(sys.modules, f"{package}.models", raising=False)
        return folder

    return write


OWN = """
from recbole.model.general_recommender import BPR
class Own(BPR): pass
class NoModel: pass
"""


@pytest.mark.parametrize("name", sorted(MODELS))
def test_our_models_are_loaded_by_name(name: str) -> None:
    assert get_model_class(name).__name__ == name


def test_ours_and_recboles() -> None:
    assert get_model_class("SIGER") is SIGER
    assert get_model_class("BPR") is BPR


@pytest.mark.parametrize("name", registry.MODELS)
def test_the_facts_of_a_model_are_those_of_its_class(name: str) -> None:
    spec = registry.MODELS[name]
    model_class = spec.load()
    assert spec.ranks_cold_items is model_class.scores_cold_items
    params = model_class.params_class.defaults()
    n_read = len(model_class.modality_names(params, ("image", "text"))) if model_class.uses_features else 0
    assert spec.reads == {0: "no features", 1: "one text", 2: "any modalities"}[n_read]
    assert spec.venue[-4:].isdecimal()


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


def test_an_unknown_name_of_a_file_names_the_file() -> None:
    with pytest.raises(UserError) as caught:
        check_model_name("SIGR", "run/config.yaml")
    assert str(caught.value) == (
        "run/config.yaml: model='SIGR': no such model; did you mean `SIGER`? (all: `recbole-siger models`)"
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


def test_an_import_path_names_a_class(install: Install) -> None:
    install("outside_a", OWN)
    own = get_model_class("outside_a.models:Own")
    assert issubclass(own, BPR)
    assert model_name(own) == "outside_a.models:Own"
    assert (model_name(SIGER), model_name(BPR)) == ("SIGER", "BPR")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "outside_b.modles:Own",
            "no module named 'outside_b.modles'; install its package, or add its folder",
        ),
        ("absent_package.models:Own", "no module named 'absent_package'; install its package"),
        ("outside_b.models:Onw", "module outside_b.models has no class 'Onw'; did you mean `Own`?"),
        (
            "outside_b.models:NoModel",
            "not a model; derive the class from MultimodalRecommender or from RecBole",
        ),
        ("outside_b.models:__name__", "not a model; derive the class"),
        ("outside_b.needy:Own", "outside_b.needy imports 'not_there', which is not installed"),
        ("outside_b.partial:Partial", "the class does not implement build, forward, loss_terms"),
        (
            "outside_b/models.py:Own",
            "'outside_b/models.py:Own' is not an import path; write package.module:Class",
        ),
        ("..models:Own", "'..models:Own' is not an import path"),
        (":Own", "':Own' is not an import path"),
    ],
)
def test_a_bad_import_path_is_one_line(install: Install, name: str, message: str) -> None:
    folder = install("outside_b", OWN)
    (folder / "needy.py").write_text("import not_there.deeper")
    base = "recbole_siger.model.abstract_recommender"
    (folder / "partial.py").write_text(
        f"from {base} import MultimodalRecommender\nclass Partial(MultimodalRecommender): pass\n"
    )
    with pytest.raises(UserError) as caught:
        get_model_class(name)
    assert str(caught.value).startswith(f"model {name!r}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_installed_entry_point_is_found_without_an_import(install: Install) -> None:
    install("outside_c", "raise RuntimeError('imported')", "Own = outside_c.models:Own\n")
    assert "Own" in model_names()
    packages = model_packages()
    assert packages["Own"] == "outside_c"
    assert (packages["SIGER"], packages["BPR"]) == ("recbole_siger", "recbole")
    assert list(packages) == model_names()
    with pytest.raises(UserError, match="did you mean `Own`"):
        get_model_class("Onw")
    with pytest.raises(RuntimeError, match="imported"):
        get_model_class("Own")


def test_an_entry_point_may_have_another_name_than_its_class(install: Install) -> None:
    install("outside_d", OWN, "Short = outside_d.models : Own\n")
    assert get_model_class("Short").__name__ == "Own"
    assert model_name(get_model_class("Short")) == "Short"


@pytest.mark.parametrize(("name", "other"), [("SIGER", "recbole_siger"), ("BPR", "recbole")])
def test_a_clash_of_names_names_both_packages(install: Install, name: str, other: str) -> None:
    install("outside_e", OWN, f"{name} = outside_e.models:Own\n")
    text = (
        f"model {name!r} is defined by {other} and by outside_e; rename the entry point of outside_e, "
        "or use --model=outside_e.models:Own"
    )
    for call in (lambda: get_model_class(name), model_packages):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == text
    assert model_names().count(name) == 1
    assert get_model_class("outside_e.models:Own").__name__ == "Own"
    assert get_model_class("VBPR").__name__ == "VBPR"


def test_two_packages_with_one_name_clash(install: Install) -> None:
    for package in ("outside_f", "outside_g"):
        install(package, OWN, f"Own = {package}.models:Own\n")
    with pytest.raises(UserError, match=r"^model 'Own' is defined by outside_[fg] and by outside_[fg];"):
        get_model_class("Own")


def test_a_file_names_registered_models_only(install: Install) -> None:
    for name in ("SIGER", "BPR", "Unknown"):
        check_stored_name(name, "config.yaml")
    with pytest.raises(UserError) as caught:
        check_stored_name("os:system", "runs/a/config.yaml")
    assert str(caught.value) == (
        "runs/a/config.yaml: model='os:system': a file cannot import code; if you trust this model, add "
        "--model=os:system to the command (Python: model='os:system')"
    )
    install("outside_h", OWN, "Own = outside_h.models:Own\n")
    check_stored_name("outside_h.models:Own", "config.yaml")


def test_short_names_are_unique() -> None:
    assert short_names(["a:M", "b.c:N"]) == {"a:M": "M", "b.c:N": "N"}
    assert short_names(["a:SIGER", "SIGER"]) == {"a:SIGER": "a:SIGER", "SIGER": "SIGER"}


def test_files_of_options_lie_beside_the_module(install: Install) -> None:
    source = "from recbole_siger.model.general_recommender.siger import SIGER\nclass Mine(SIGER): pass\n"
    folder = install("outside_i", OWN + source)
    own, mine = (get_model_class(f"outside_i.models:{name}") for name in ("Own", "Mine"))
    assert [label for label, _ in option_files(own)] == ["recbole/properties/model/BPR.yaml"]
    assert [label for label, _ in option_files(mine)] == ["properties/model/SIGER.yaml"]
    assert search_file(mine, "outside_i.models:Mine") is None
    (folder / "Mine.yaml").write_text("")
    (folder / "Mine.search.yaml").write_text("")
    assert [path.name for _, path in option_files(mine)] == ["SIGER.yaml", "Mine.yaml"]
    assert search_file(mine, "outside_i.models:Mine") == folder / "Mine.search.yaml"
    assert search_file(SIGER, "SIGER").name == "SIGER.yaml"


def test_a_sequential_model_leaves_the_detection_of_anomalies_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("recbole.model.sequential_recommender")]:
        monkeypatch.delitem(sys.modules, name)
    before = torch.is_anomaly_enabled()
    try:
        torch.autograd.set_detect_anomaly(False)
        assert get_model_class("SASRec").__name__ == "SASRec"
        assert "recbole.model.sequential_recommender.sine" in sys.modules
        assert not torch.is_anomaly_enabled()
    finally:
        torch.autograd.set_detect_anomaly(before)
