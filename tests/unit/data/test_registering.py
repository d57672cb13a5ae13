"""A new feature in the YAML of a dataset: once, and with all other characters as they were."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.data import registering
from recbole_siger.data.registering import check_registration, register_feature, with_listed
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import load_yaml


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "features: [text]\n"),
        ("# only a comment", "# only a comment\nfeatures: [text]\n"),
        ("seed: 7", "seed: 7\nfeatures: [text]\n"),
        ("features: []\nseed: 7\n", "features: [text]\nseed: 7\n"),
        ("features: ~  # none\n", "features: [text]  # none\n"),
        ("features:\nseed: 7\n", "features: [text]\nseed: 7\n"),
        ("features: [image]  # (list) Mine.\n", "features: [image, text]  # (list) Mine.\n"),
        ("features: [image, ]\n", "features: [image,  text]\n"),
        ("features: [image,  # a\n  audio,  # b\n]\n", "features: [image,  # a\n  audio,  # b\n text]\n"),
        ("features: {image: x.npy}\n", "features: {image: x.npy, text: null}\n"),
        ("features:\n- image  # a\n# b\nseed: 7\n", "features:\n- image  # a\n- text\n# b\nseed: 7\n"),
        ("a: 1\nfeatures:\n  - image", "a: 1\nfeatures:\n  - image\n  - text\n"),
        ("features:\n  image: x.npy  # a\nb: 2\n", "features:\n  image: x.npy  # a\n  text: null\nb: 2\n"),
        ("a: 1\r\nfeatures: \r\n- image\r\n", "a: 1\r\nfeatures: \r\n- image\r\n- text\r\n"),
        ("ä: '😀ü'\nfeatures: [é]\n", "ä: '😀ü'\nfeatures: [é, text]\n"),
        ("a:\t1\t# b\nfeatures:\t[c]\n", "a:\t1\t# b\nfeatures:\t[c, text]\n"),
        ("features: [a,\n\tc]\t# d\n", "features: [a,\n\tc, text]\t# d\n"),
        ("given: &g [image]\n", "given: &g [image]\nfeatures: [text]\n"),
        ("features: [a]\nseed: 7\n# end", "features: [a, text]\nseed: 7\n# end"),
    ],
)
def test_the_rest_of_the_file_stays(before: str, after: str) -> None:
    assert with_listed(before, "features", "text") == after
    listed = load_yaml(after)["features"]
    assert "text" in listed
    assert set(load_yaml(before) or {}) | {"features"} == set(load_yaml(after))


@pytest.mark.parametrize("name", ["no", "null", "y", "_1", "e3"])
def test_a_name_that_yaml_reads_as_another_type_is_quoted(name: str) -> None:
    assert load_yaml(with_listed("features: [image]\n", "features", name))["features"] == ["image", name]
    assert load_yaml(with_listed("", "features", name))["features"] == [name]
    assert load_yaml(with_listed("features: {a: b}\n", "features", name))["features"] == {
        "a": "b",
        name: None,
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("features: image\n", "'image' is not a list"),
        ("{features: [image], seed: 7}\n", None),
        ("{seed: 7}\n", "this form of YAML cannot be edited"),
        ("given: &g [image]\nfeatures: *g\n", "this form of YAML cannot be edited"),
        ("given: &g {features: [image]}\n<<: *g\n", "this form of YAML cannot be edited"),
        ("features: [image]\n...\n", None),
        ("seed: 7\n...\n", "this form of YAML cannot be edited"),
    ],
)
def test_a_form_that_is_not_edited_is_one_line(tmp_path: Path, text: str, says: str | None) -> None:
    file = tmp_path / "shop.yaml"
    file.write_text(text)
    if says is None:
        register_feature(tmp_path, "shop", "item", "text")
        assert load_yaml(file.read_text())["features"] == ["image", "text"]
        return
    for call in (check_registration, register_feature):
        with pytest.raises(UserError, match="add 'text' to the list features by hand") as caught:
            call(tmp_path, "shop", "item", "text")
        assert says in str(caught.value)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
    assert file.read_text() == text


def test_a_file_is_made_once_and_a_name_is_listed_once(tmp_path: Path) -> None:
    file = tmp_path / "shop.yaml"
    check_registration(tmp_path, "shop", "item", "text")
    assert not file.exists()
    assert register_feature(tmp_path, "shop", "item", "text") == f"{file}: features lists text now"
    text = file.read_text()
    assert text == "# shop\nfeatures: [text]  # (list) Features of items: shop.<name>.npy and .ids.\n"
    assert register_feature(tmp_path, "shop", "item", "text") == f"{file}: features lists text already"
    assert file.read_text() == text
    assert register_feature(tmp_path, "shop", "user", "bio") == f"{file}: user_features lists bio now"
    assert load_yaml(file.read_text()) == {"features": ["text"], "user_features": ["bio"]}
    assert [path.name for path in tmp_path.iterdir()] == ["shop.yaml"]


@pytest.mark.parametrize(("noun", "name"), [("user", "text"), ("item", "bio")])
def test_a_name_is_of_items_or_of_users(tmp_path: Path, noun: Any, name: str) -> None:
    (tmp_path / "shop.yaml").write_text("features: [text]\nuser_features: [bio]\n")
    with pytest.raises(UserError, match="choose another name with --modality"):
        check_registration(tmp_path, "shop", noun, name)


def test_names_that_come_together_are_all_listed(tmp_path: Path) -> None:
    names = [f"m{i}" for i in range(7)]
    with ThreadPoolExecutor(7) as pool:
        list(pool.map(lambda name: register_feature(tmp_path, "shop", "item", name), names))
    assert sorted(load_yaml((tmp_path / "shop.yaml").read_text())["features"]) == names


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere.yaml").write_text("seed: 7\n")
    os.symlink("elsewhere.yaml", tmp_path / "shop.yaml")
    register_feature(tmp_path, "shop", "item", "text")
    assert (tmp_path / "shop.yaml").is_symlink()
    assert load_yaml((tmp_path / "elsewhere.yaml").read_text()) == {"seed": 7, "features": ["text"]}


def test_settings_that_override_the_folder_are_named(tmp_path: Path) -> None:
    line = register_feature(tmp_path, "ml-100k", "item", "image")
    assert line.startswith("note: properties/dataset/ml-100k.yaml sets features and overrides ")
    assert line.endswith("add 'image' there, or set --features")
    assert register_feature(tmp_path, "ml-100k", "item", "text").endswith("features lists text now")


def test_nothing_is_left_when_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop.yaml").write_text("seed: 7\n")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(registering, "write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        register_feature(tmp_path, "shop", "item", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["shop.yaml"]
    assert (tmp_path / "shop.yaml").read_text() == "seed: 7\n"
