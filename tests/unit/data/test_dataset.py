"""Features are found by the data set's name, or the error says what to write where."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.errors import UserError
from tests.toy import write_dataset

SPLITS = {
    "train": [("ann", "x"), ("ann", "y"), ("bob", "z")],
    "valid": [("bob", "x")],
    "test": [("ann", "w")],
}
ROWS = {"w": [9.0, 1.0], "x": [1.0, 2.0], "y": [3.0, 4.0]}  # z has no feature


def features(*names: str) -> dict[str, Any]:
    """Each modality is the rows above times its place, so that no two are equal."""
    return {
        name: (np.array(list(ROWS.values())) * place, list(ROWS)) for place, name in enumerate(names, start=1)
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path, "toy", SPLITS, features("image", "text", "audio"))
    return tmp_path


def load(data: Path, model: str = "SIGER", **values: Any) -> MultimodalDataset:
    return MultimodalDataset(
        Config(model, "toy", config_dict={"data_path": str(data), "gpu_id": "", **values})
    )


def refusal(data: Path, **values: Any) -> str:
    with pytest.raises(UserError) as caught:
        load(data, **values).item_features()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_tokens_edges_and_features_belong_together(data: Path) -> None:
    dataset = load(data)
    train = dataset.build()[0]
    assert set(dataset.user_tokens) == {"[PAD]", "ann", "bob"}
    assert set(dataset.item_tokens) == {"[PAD]", "w", "x", "y", "z"}
    assert dataset.user_tokens[0] == dataset.item_tokens[0] == "[PAD]"
    edges = {(train.user_tokens[u], train.item_tokens[i]) for u, i in train.train_edges.T.tolist()}
    assert edges == set(SPLITS["train"])
    assert train.train_edges.shape == (2, 3)
    for place, modality in enumerate(("image", "text", "audio"), start=1):
        table = train.item_features()[modality]
        assert table.dtype == torch.float32
        assert table[0].tolist() == [0.0, 0.0]
        for item, token in enumerate(dataset.item_tokens[1:], start=1):
            assert table[item].tolist() == (np.array(ROWS.get(token, [0.0, 0.0])) * place).tolist()


def test_the_splits_share_one_copy_of_the_features(data: Path) -> None:
    first, second, _ = load(data).build()
    assert first.item_features()["image"] is second.item_features()["image"]


@pytest.mark.parametrize("chosen", [["text"], ["audio", "image"], ["image", "text", "audio"]])
def test_any_number_of_modalities_in_the_order_asked(data: Path, chosen: list[str]) -> None:
    dataset = load(data, modalities=chosen)
    assert dataset.modalities() == tuple(chosen)
    assert list(dataset.item_features()) == chosen


def test_by_default_all_that_the_dataset_lists(data: Path) -> None:
    assert load(data).modalities() == ("image", "text", "audio")
    assert load(data, features=["text"]).modalities() == ("text",)


def test_a_mapping_names_the_files(data: Path) -> None:
    folder = data / "toy"
    np.save(folder / "clip.npy", np.array([[5.0]], dtype=np.float16))
    (folder / "clip.ids").write_text("y\n")
    dataset = load(data, features={"vision": "clip.npy", "text": None})
    assert dataset.feature_files() == {"vision": folder / "clip.npy", "text": folder / "toy.text.npy"}
    assert dataset.item_features()["vision"][dataset.item_tokens.index("y")].tolist() == [5.0]
    elsewhere = data / "clip.npy"
    assert load(data, features={"vision": str(elsewhere)}).feature_files() == {"vision": elsewhere}


@pytest.mark.parametrize("listed", ["image", 3, "image text"])
def test_features_of_another_form(data: Path, listed: Any) -> None:
    message = refusal(data, features=listed)
    assert message.startswith(f"config_dict: features={listed!r}: write a list such as [image, text]")


@pytest.mark.parametrize("name", ["../image", "a-b", "", 3, "a.b", "3d"])
def test_a_modality_name_that_is_none(data: Path, name: Any) -> None:
    message = refusal(data, features=[name])
    assert message == (
        f"config_dict: features: {name!r} is not the name of a feature; "
        "use letters, digits and _, with no digit first, e.g. 'image'"
    )


def test_modalities_that_cannot_be_had(data: Path) -> None:
    assert refusal(data, modalities=["imag"]) == (
        "config_dict: modalities: 'imag' is not a feature of 'toy'; did you mean `image`? "
        "(features: image, text, audio)"
    )
    assert "name each modality once" in refusal(data, modalities=["text", "text"])
    assert "at least one" in refusal(data, modalities=[])


def test_no_features_at_all(tmp_path: Path) -> None:
    write_dataset(tmp_path, "toy", SPLITS)
    message = refusal(tmp_path)
    assert message.startswith("dataset 'toy' lists no item features and SIGER needs some: ")
    assert "properties/dataset/toy.yaml" in message
    assert load(tmp_path, "BPR").item_num == 5  # who needs none is not asked for any


def test_a_listed_file_that_is_missing(data: Path) -> None:
    (data / "toy" / "toy.text.npy").unlink()
    assert refusal(data).startswith(f"{data / 'toy' / 'toy.text.npy'}: no such feature file")
    assert list(load(data, modalities=["image"]).item_features()) == ["image"]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_a_split_that_is_missing(data: Path, split: str) -> None:
    path = data / "toy" / f"toy.{split}.inter"
    path.unlink()
    with pytest.raises(UserError) as caught:
        load(data)
    assert str(caught.value).startswith(f"{path}: no such dataset file; ")
    assert "import-mmrec" in str(caught.value)


def test_a_dataset_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'toy' / 'toy.inter'}: no such dataset file; ")


def test_strict_ids_reach_the_loader(data: Path) -> None:
    ids = data / "toy" / "toy.image.ids"
    ids.write_text(ids.read_text().replace("w", "foreign"))
    dataset = load(data)
    assert not dataset.item_features()["image"][dataset.item_tokens.index("w")].any()
    assert "'foreign'" in refusal(data, strict_ids=True)


def test_assume_order_reaches_the_loader(tmp_path: Path) -> None:
    splits = {"train": [("u", "0"), ("u", "2")], "valid": [("u", "1")], "test": [("u", "3")]}
    folder = write_dataset(tmp_path, "toy", splits, {"image": (np.arange(4.0).reshape(4, 1) + 1, "0123")})
    (folder / "toy.image.ids").unlink()
    assert "toy.image.ids: no such file" in refusal(tmp_path)
    dataset = load(tmp_path, assume_order=True)
    table = dataset.item_features()["image"]
    assert [table[dataset.item_tokens.index(token)].item() for token in "0123"] == [1.0, 2.0, 3.0, 4.0]


def test_the_coverage_of_each_modality_is_logged_once(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    dataset = load(data, modalities=["text", "image"])
    with caplog.at_level(logging.INFO, logger="recbole_siger"):
        dataset.item_features()
        dataset.item_features()
    assert caplog.messages == [
        "text: 3 of 4 items (1 missing), 2-d",
        "image: 3 of 4 items (1 missing), 2-d",
    ]


def test_unknown_ids_are_part_of_the_coverage(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    ids = data / "toy" / "toy.image.ids"
    ids.write_text(ids.read_text().replace("w", "elsewhere"))
    with caplog.at_level(logging.INFO, logger="recbole_siger"):
        load(data, modalities=["image", "text"]).item_features()
    assert caplog.messages == [
        "image: 2 of 4 items (2 missing), 2-d; 1 ids of the file are not items of the dataset",
        "text: 3 of 4 items (1 missing), 2-d",
    ]


@pytest.mark.parametrize("rows", [np.zeros((3, 2)), [[0, 0], [0, 0], [5, 5]]])
def test_a_feature_that_adds_nothing_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: Any
) -> None:
    ids = ["w", "x", "elsewhere"]  # the third row is of no item
    folder = write_dataset(tmp_path, "toy", SPLITS, {"image": (rows, ids), "text": (np.ones((3, 1)), ids)})
    with caplog.at_level(logging.WARNING, logger="recbole_siger"):
        load(tmp_path).item_features()
    file = folder / "toy.image.npy"
    assert caplog.messages == [f"{file}: all values for items of the dataset are zero; image adds nothing"]


def test_a_user_feature_that_adds_nothing_is_warned_of(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_user_feature(data, {"bob": [0.0, 0.0], "ann": [0.0, -0.0]})
    with caplog.at_level(logging.WARNING, logger="recbole_siger"):
        load(data, user_features=["bio"]).user_features(("bio",))
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "all values for users of the dataset are zero; bio adds nothing"
    ]


# ---- making features at first use


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Path, str]]:
    """A script ``maker`` that writes an image feature; the calls of its ``prepare``."""
    calls: list[tuple[Path, Path, str]] = []

    class Maker:
        @staticmethod
        def prepare(atomic: Path, output: Path, name: str) -> None:
            calls.append((atomic, output, name))
            np.save(output / f"{name}.image.npy", np.array([[7.0]]))
            (output / f"{name}.image.ids").write_text("x\n")

    def load_script(name: str) -> type:
        if name != "maker":
            raise FileNotFoundError(f"dataset_scripts/{name}.py")
        return Maker

    monkeypatch.setattr("recbole_siger.data.dataset.load_script", load_script)
    return calls


def test_missing_features_are_made_once(tmp_path: Path, script: list[Any]) -> None:
    folder = write_dataset(tmp_path, "toy", SPLITS)
    for _ in range(2):
        dataset = load(tmp_path, features=["image"], prepare="maker")
        assert dataset.item_features()["image"][dataset.item_tokens.index("x")].tolist() == [7.0]
    assert script == [(folder, folder, "toy")]


def test_features_that_are_there_are_not_made(data: Path, script: list[Any]) -> None:
    load(data, prepare="maker").item_features()
    assert script == []


def test_an_unknown_script(tmp_path: Path) -> None:
    write_dataset(tmp_path, "toy", SPLITS)
    message = refusal(tmp_path, features=["image"], prepare="no_such")
    assert message == "config_dict: prepare='no_such': there is no dataset_scripts/no_such.py"


def write_user_feature(data: Path, rows: dict[str, list[float]], name: str = "bio") -> None:
    np.save(data / "toy" / f"toy.{name}.npy", np.array(list(rows.values())))
    (data / "toy" / f"toy.{name}.ids").write_text("".join(f"{token}\n" for token in rows), encoding="utf-8")


def test_user_features_are_joined_by_user_token(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_user_feature(data, {"bob": [5.0, 6.0, 7.0], "eve": [1.0, 1.0, 1.0]})
    with caplog.at_level(logging.INFO, logger="recbole_siger"):
        dataset = load(data, user_features=["bio"])
        table = dataset.user_features(("bio",))["bio"]
    assert "bio: 1 of 2 users (1 missing), 3-d" in caplog.text
    by_token = dict(zip(dataset.user_tokens, table.tolist(), strict=True))
    assert by_token == {"[PAD]": [0, 0, 0], "ann": [0, 0, 0], "bob": [5, 6, 7]}
    assert dataset.user_features(()) == {}


@pytest.mark.parametrize(
    ("rows", "values", "message"),
    [
        ({"bob": [1.0]}, {"user_features": "bio"}, "user_features='bio': write a list such as"),
        ({"bob": [1.0]}, {"user_features": ["../bio"]}, "'../bio' is not the name of a feature; use letters"),
        ({"bob": [1.0]}, {"user_features": ["image"]}, "'image' is also an item feature; rename one file"),
        ({"zoe": [1.0]}, {"user_features": ["bio"]}, "none of its 1 ids ('zoe') is a user of the dataset"),
        (
            {"bob": [1.0], "zoe": [1.0]},
            {"user_features": ["bio"], "strict_ids": True},
            "are not users of the",
        ),
        ({"bob": [float("nan")]}, {"user_features": ["bio"]}, "NaN or infinite values (as float32)"),
    ],
)
def test_bad_user_features_are_one_line(
    data: Path, rows: dict[str, list[float]], values: dict[str, Any], message: str
) -> None:
    write_user_feature(data, rows)
    dataset = load(data, **values)
    with pytest.raises(UserError) as caught:
        dataset.user_features(tuple(dataset.user_feature_files()))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", [float("nan"), [], 3, "", {"a": 1}])
def test_a_feature_file_is_a_name(data: Path, file: Any) -> None:
    message = refusal(data, features={"image": file})
    assert message == f"config_dict: features: image={file!r}: write the name of a .npy file"


@pytest.mark.parametrize("listed", [[["image"]], [{"image": 1}]])
def test_listed_features_are_names(data: Path, listed: Any) -> None:
    assert "write a list such as [image, text]" in refusal(data, features=listed)
