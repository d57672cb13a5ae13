"""MMRec's layout becomes RecBole's; what does not fit is refused and leaves nothing behind."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recbole_siger.common.files import sha256
from recbole_siger.data.features import load_features
from recbole_siger.errors import UserError
from recbole_siger.prepare.sources import mmrec
from recbole_siger.prepare.sources.mmrec import import_mmrec

REAL = Path(__file__).parents[5] / "shared" / "data"

INTER = """userID\titemID\trating\ttimestamp\tx_label\tnote
1\t4\t5\t874965478\t2\tx
0\t0\t3.5\t1e9\t0\ty
0\t2\t1\t7\t1\tz
2\t0\t4\t8\t0\t"
1\t1\t2\t9\t0\tq
"""
"""Three users, five items of which 3 has no interaction."""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "toy.inter").write_text(INTER)
    image = np.arange(10, dtype=np.float64).reshape(5, 2)
    image[0] = 0.0
    np.save(folder / "image_feat.npy", image)
    np.save(folder / "text_feat.npy", np.ones((5, 3), dtype=np.float16))
    np.save(folder / "persona_feat.npy", np.ones((3, 7), dtype=np.float32))
    np.save(folder / "audio.npy", np.ones((5, 1), dtype=np.float32))
    return folder


def run(source: Path, name: str = "toy", **options: Any) -> tuple[Path, list[str]]:
    lines: list[str] = []
    options.setdefault("features", {})
    folder = import_mmrec(source, name, data_path=source.parent / "dataset", report=lines.append, **options)
    return folder, lines


def refusal(source: Path, name: str = "toy", **options: Any) -> str:
    """Return the message, after making sure that it is one line and that nothing was left behind."""
    before = snapshot(source.parent)
    with pytest.raises(UserError) as caught:
        run(source, name, **options)
    assert snapshot(source.parent) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) if path.is_file() else "" for path in sorted(folder.rglob("*"))}


def test_interactions_keep_split_order_and_text(source: Path) -> None:
    folder, lines = run(source)
    header = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    assert folder == source.parent / "dataset" / "toy"
    train = (folder / "toy.train.inter").read_bytes().decode()
    assert train == f"{header}0\t0\t3.5\t1e9\n2\t0\t4\t8\n1\t1\t2\t9\n"
    assert (folder / "toy.valid.inter").read_text() == f"{header}0\t2\t1\t7\n"
    assert (folder / "toy.test.inter").read_text() == f"{header}1\t4\t5\t874965478\n"
    assert "note: toy.inter: columns ignored: note" in lines
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [f"toy.{split}.inter" for split in ("train", "valid", "test")]
        + [f"toy.{modality}.{suffix}" for modality in ("image", "text") for suffix in ("npy", "ids")]
        + ["toy.yaml", "manifest.json"]
    )
    assert [path.name for path in folder.parent.iterdir()] == ["toy"]


def test_features_keep_their_bytes_and_find_their_items(source: Path) -> None:
    folder, lines = run(source, features={"audio": Path("audio.npy")})
    assert (folder / "toy.image.npy").read_bytes() == (source / "image_feat.npy").read_bytes()
    assert (folder / "toy.image.ids").read_bytes() == b"0\n1\n2\n3\n4\n"
    loaded = load_features(folder / "toy.image.npy", ["[PAD]", "4", "0", "2"])
    assert loaded.equal(torch.tensor([[0.0, 0.0], [8.0, 9.0], [0.0, 0.0], [4.0, 5.0]]))
    note = "note: persona_feat.npy: 3 rows, the number of users: skipped"
    assert f"{note}; import it with --user_feature NAME=FILE" in lines
    assert [line for line in lines if "missing" in line] == [
        "image: 4 of 5 items (1 missing), 2-d",
        "text: 5 of 5 items (0 missing), 3-d",
        "audio: 5 of 5 items (0 missing), 1-d",
    ]


def test_facts(source: Path) -> None:
    folder, _ = run(source, features={"audio": Path("audio.npy"), "no": Path("audio.npy")})
    text = (folder / "toy.yaml").read_text()
    assert yaml.safe_load(text) == {
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "protocol": "mmrec",
        "features": ["image", "text", "audio", "no"],
    }
    assert all("# (" in line for line in text.splitlines()[1:] if not line.startswith(" "))


def test_manifest_names_no_folder(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    np.save(tmp_path / "elsewhere" / "image_feat.npy", np.ones((5, 2), dtype=np.float32))
    np.save(tmp_path / "elsewhere" / "video.npy", np.ones((5, 11), dtype=np.float32))
    elsewhere = tmp_path / "elsewhere"
    folder, _ = run(source, features={"video": elsewhere / "video.npy", "x": elsewhere / "image_feat.npy"})
    text = (folder / "manifest.json").read_text()
    manifest = json.loads(text)
    assert str(tmp_path) not in text
    assert manifest["name"] == "toy"
    assert manifest["format"] == 1
    assert manifest["counts"] == {
        "users": 3, "items": 4, "interactions": 5, "train": 3, "valid": 1, "test": 1
    }  # fmt: skip
    assert manifest["sparsity"] == pytest.approx(1 - 5 / 12)
    assert manifest["features"]["image"] == {"rows": 5, "dim": 2, "dtype": "float64", "missing": 1}
    assert manifest["published"] is None
    # The two files named image_feat.npy are both told.
    assert set(manifest["inputs"]) == {
        "toy.inter", "image_feat.npy", "image_feat.npy'", "text_feat.npy", "video.npy"
    }  # fmt: skip
    inter = source / "toy.inter"
    assert manifest["inputs"]["toy.inter"] == {"sha256": sha256(inter), "bytes": inter.stat().st_size}


def test_report_ends_with_the_next_command(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.chdir(source.parent)
    import_mmrec(Path("raw"), "toy", data_path=Path("dataset"), features={}, report=lines.append)
    counts = "toy: 3 users, 4 items, 5 interactions (3 train, 1 valid, 1 test), sparsity 58.3333%"
    assert counts in lines
    assert "note: skipped, because the name has no modality: audio.npy" in lines
    assert lines[-2:] == [
        f"written to {Path('dataset/toy')}",
        "next: recbole-siger run --model=SIGER --dataset=toy",
    ]
    _, lines = run(source, "toy2")
    assert lines[-1].endswith(f"--dataset=toy2 --data_path={source.parent / 'dataset'}")


def test_without_features_the_next_command_still_works(source: Path) -> None:
    for path in source.glob("*_feat.npy"):
        path.unlink()
    folder, lines = run(source)
    assert "--model=LightGCN --dataset=toy" in lines[-1]
    assert "features" not in yaml.safe_load((folder / "toy.yaml").read_text())


def test_explicit_feature_replaces_and_is_looked_up_in_source_first(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    np.save(source.parent / "audio.npy", np.full((5, 1), 2.0))
    np.save(source.parent / "only_here.npy", np.full((5, 1), 3.0))
    folder, _ = run(source, features={"image": Path("audio.npy"), "here": Path("only_here.npy")})
    assert np.load(folder / "toy.image.npy")[0, 0] == 1.0
    assert np.load(folder / "toy.here.npy")[0, 0] == 3.0
    message = refusal(source, "toy2", features={"image": Path("lost.npy")})
    assert "lost.npy: no such feature file for modality 'image'" in message


def test_published_counts(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(mmrec.PUBLISHED, "baby", (3, 4, 6))
    folder, lines = run(source, "Baby")
    assert "published baby: users 3 PASS, items 4 PASS, interactions 6 DIFF" in lines
    published = json.loads((folder / "manifest.json").read_text())["published"]
    assert published["interactions"] == {"published": 6, "status": "DIFF"}
    (source / "toy.inter").rename(source / "baby.inter")
    assert "published" in json.loads((run(source, "mine")[0] / "manifest.json").read_text())


def test_repeated_pairs_are_a_note(source: Path) -> None:
    with (source / "toy.inter").open("a") as handle:
        handle.write("0\t0\t1\t1\t2\t\n\n")
    assert "note: toy.inter: 1 rows repeat a user-item pair; all rows are kept" in run(source)[1]


def test_existing_folder(source: Path) -> None:
    folder, _ = run(source)
    (folder / "stray").touch()
    message = refusal(source)
    assert f"{folder}: exists already; choose another name, or replace it with --overwrite" in message
    assert run(source, overwrite=True)[0] == folder
    assert not (folder / "stray").exists()


def test_an_input_inside_the_target_is_refused(source: Path) -> None:
    target = source.parent / "dataset" / "toy"
    target.mkdir(parents=True)
    np.save(target / "audio.npy", np.ones((5, 1)))
    message = refusal(source, features={"audio": target / "audio.npy"}, overwrite=True)
    assert f"{target}: contains the input" in message
    assert "choose another name" in message
    with pytest.raises(UserError, match="contains the input"):
        import_mmrec(source, "raw", data_path=source.parent, features={}, overwrite=True, report=print)
    assert (source / "toy.inter").exists()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/etc", "a b", "-x", "toy\n", "x" * 101])
def test_name(source: Path, name: str) -> None:
    assert f"command line: name={name!r}: use letters" in refusal(source, name)


def test_target_that_is_a_file(source: Path) -> None:
    (source.parent / "dataset").mkdir()
    (source.parent / "dataset" / "toy").touch()
    assert "is not a plain folder; move it, or choose another name" in refusal(source, overwrite=True)


def test_source_must_hold_one_inter(source: Path) -> None:
    (source / "two.inter").write_text(INTER)
    assert "has 2 .inter files (toy.inter, two.inter); keep the file" in refusal(source)
    (source / "two.inter").unlink()
    (source / "toy.inter").unlink()
    assert "has no .inter file; put" in refusal(source)
    with pytest.raises(UserError, match="no such folder; name the folder"):
        import_mmrec(source / "no", "toy", data_path=source / "d", features={}, report=print)


@pytest.mark.parametrize("column", ["userID", "itemID", "x_label"])
def test_missing_column(source: Path, column: str) -> None:
    (source / "toy.inter").write_text(INTER.replace(column, "other"))
    message = refusal(source)
    assert f"toy.inter: column '{column}' is missing" in message
    assert "separated by tabs" in message


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("0\t1\t1\t1\t3\t", "line 7: x_label is '3'; it must be 0 (train), 1 (valid) or 2 (test)"),
        ("0\t1\t1\t1", "line 7: x_label is ''"),
        ("\n0\t1\t1\t1\ttrain\t", "line 8: x_label is 'train'"),
        ("-1\t1\t1\t1\t0\t", "line 7: userID is '-1'; it must be an integer >= 0; number users"),
        ("1\t1.0\t1\t1\t0\t", "line 7: itemID is '1.0'; it must be an integer"),
        ("1\t9999999999999999999\t1\t1\t0\t", "line 7: itemID is '9999999999999999999'"),
        ("1\t1\tnan\t1\t0\t", "line 7: rating is 'nan'; it must be a finite number"),
        ("1\t1\t1\t1e999\t0\t", "line 7: timestamp is '1e999'"),
        ("1\t1\t1\t1\t0\t\t1", "Expected 6 fields in line 7, saw 7"),
    ],
)
def test_bad_row(source: Path, row: str, says: str) -> None:
    (source / "toy.inter").write_text(f"{INTER}{row}\n")
    message = refusal(source)
    assert "toy.inter" in message
    assert says in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a tab separated UTF-8 table"),
        (b"userID\titemID\tx_label\n\xff\t1\t1\n", "is not a tab separated UTF-8 table"),
        (b"userID\titemID\tx_label\n1\t1\t1\t1\n", "more values than the header has names; fix the header"),
        (b"userID\titemID\tx_label\n", "no row has x_label 0 (train)"),
        (b"userID\titemID\tx_label\n1\t1\t0\n1\t2\t2\n", "no row has x_label 1 (valid); give each split"),
    ],
)
def test_bad_table(source: Path, content: bytes, says: str) -> None:
    (source / "toy.inter").write_bytes(content)
    message = refusal(source)
    assert "toy.inter" in message
    assert says in message


def not_finite() -> np.ndarray[Any, Any]:
    array = np.ones((5, 2))
    array[[1, 3], 0] = np.nan
    return array


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: np.ones((4, 2)), "4 rows, expected 5 (the largest itemID + 1); use the features"),
        (lambda: np.ones(5), "shape is (5,); it must be"),
        (lambda: np.array([[None]] * 5), "need pickle"),
        (lambda: np.ones((5, 2), dtype=np.int64), "dtype is int64; save it as float16"),
        (not_finite, "NaN or infinite values (as float32) for items '1', '3'; extract"),
    ],
)
def test_bad_features(source: Path, make: Callable[[], Any], says: str) -> None:
    np.save(source / "image_feat.npy", make())
    message = refusal(source)
    assert "image_feat.npy" in message
    assert says in message


def test_explicit_user_features_are_an_error(source: Path) -> None:
    message = refusal(source, features={"persona": Path("persona_feat.npy")})
    assert "persona_feat.npy: 3 rows, expected 5" in message


def test_features_of_users(source: Path) -> None:
    rows = np.arange(21, dtype=np.float32).reshape(3, 7)
    rows[1] = 0
    np.save(source / "persona_feat.npy", rows)
    folder, lines = run(source, user_features={"user_profile": Path("persona_feat.npy")})
    told = yaml.safe_load((folder / "toy.yaml").read_text())
    assert (told["features"], told["user_features"]) == (["image", "text"], ["user_profile"])
    assert "user_profile: 2 of 3 users (1 missing), 7-d" in lines
    assert not any("persona_feat.npy" in line for line in lines)
    table = load_features(folder / "toy.user_profile.npy", ["[PAD]", "2", "0"], noun="user")
    assert table[1:].tolist() == rows[[2, 0]].tolist()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["user_features"]["user_profile"]["missing"] == 1
    assert "persona_feat.npy" in manifest["inputs"]


@pytest.mark.parametrize(
    ("user_features", "says"),
    [
        ({"bio": Path("image_feat.npy")}, "image_feat.npy: 5 rows, expected 3 (the largest userID + 1)"),
        ({"bio": Path("no.npy")}, "no.npy: no such feature file"),
        ({"a.b": Path("persona_feat.npy")}, "user feature 'a.b': use letters, digits and _"),
        ({"text": Path("persona_feat.npy")}, "'text' is also a modality of items; choose another name"),
    ],
)
def test_bad_features_of_users(source: Path, user_features: dict[str, Path], says: str) -> None:
    assert says in refusal(source, user_features=user_features)


@pytest.mark.parametrize("name", ["a.b", "3d", "my-audio", ""])
def test_modality_name(source: Path, name: str) -> None:
    assert f"modality {name!r}: use letters, digits and _" in refusal(
        source, features={name: Path("audio.npy")}
    )


@pytest.mark.parametrize("name", ["train", "keys", "forward"])
def test_a_modality_name_that_torch_uses(source: Path, name: str) -> None:
    (source / "image_feat.npy").rename(source / f"{name}_feat.npy")
    message = refusal(source)
    assert f"modality {name!r}: torch.nn uses this name itself; choose another name" in message
    assert f"{name}_feat.npy" in message


def test_nothing_is_left_when_writing_fails(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run(source)
    before = snapshot(source.parent)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(mmrec.shutil, "copyfile", fail)
    for name in ("toy", "other"):
        with pytest.raises(OSError, match="disk full"):
            run(source, name, overwrite=True)
    assert snapshot(source.parent) == before
    assert folder.exists()


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("baby", ["image", "text"]),
        ("sports", ["image", "text"]),
        ("tiktok", ["image", "audio"]),
        ("lfm2k", ["text", "vggish", "whisper"]),
        ("ml100k", ["image", "text", "llm_item_profile"]),
    ],
)
def test_real_data(tmp_path: Path, name: str, features: list[str]) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"skips the import of {name}: {REAL / name} is not there")
    lines: list[str] = []
    extra = {key: Path(f"{key}.npy") for key in ("vggish", "whisper") if name == "lfm2k"}
    folder = import_mmrec(REAL / name, name, data_path=tmp_path, features=extra, report=lines.append)
    facts = yaml.safe_load((folder / f"{name}.yaml").read_text())
    assert facts.get("features", []) == features
    if name in ("baby", "sports"):
        published = next(line for line in lines if line.startswith("published"))
        assert published.count("PASS") == 3
        assert "DIFF" not in published
    if name == "ml100k":
        assert "image: 1,663 of 1,682 items (19 missing), 1280-d" in lines
    raw = pd.read_csv(next((REAL / name).glob("*.inter")), sep="\t")
    for label, split in enumerate(mmrec.SPLITS):
        written = pd.read_csv(folder / f"{name}.{split}.inter", sep="\t")
        expected = raw.loc[raw["x_label"] == label, ["userID", "itemID"]].to_numpy()
        assert np.array_equal(written[["user_id:token", "item_id:token"]].to_numpy(), expected)


def test_a_link_in_a_loop_is_one_line(source: Path) -> None:
    (source / "text_feat.npy").unlink()
    (source / "text_feat.npy").symlink_to("text_feat.npy")
    assert "text_feat.npy: " in refusal(source)
