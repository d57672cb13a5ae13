"""Shipped files are found in the repository and in a wheel."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recbole_siger.options import resources
from recbole_siger.options.resources import find_resource, load_script

ROOT = Path(__file__).parents[3]


def test_shipped_files_are_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_resource("properties/overall.yaml") == ROOT / "properties" / "overall.yaml"
    assert find_resource("properties/no_such.yaml") is None


def test_a_wheels_copy_inside_the_package_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "recbole_siger"
    for root, text in ((package, "wheel"), (package.parent, "stray")):
        (root / "properties").mkdir(parents=True)
        (root / "properties" / "overall.yaml").write_text(text)
    monkeypatch.setattr(resources, "_PACKAGE", package)
    found = find_resource("properties/overall.yaml")
    assert found is not None
    assert found.read_text() == "wheel"


def test_a_script_is_imported_by_name() -> None:
    module = load_script("ml_100k")
    assert Path(module.__file__ or "") == ROOT / "dataset_scripts" / "ml_100k.py"
    assert callable(module.prepare)


@pytest.mark.parametrize("name", ["no_such", "../setup", "movielens.py"])
def test_an_unknown_script_is_no_file(name: str) -> None:
    with pytest.raises(FileNotFoundError, match=f"^dataset_scripts/{name}.py$"):
        load_script(name)


def test_a_name_cannot_lead_out_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("raise SystemExit('a dataset ran code')")
    scripts = ROOT / "dataset_scripts"
    for name in (str(tmp_path / "evil"), os.path.relpath(tmp_path / "evil", scripts)):
        with pytest.raises(FileNotFoundError):
            load_script(name)
