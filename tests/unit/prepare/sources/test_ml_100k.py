"""Features of RecBole's ml-100k, made by the module and by the script that a user runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recbole_siger.common.files import sha256
from recbole_siger.data.features import has_feature, load_features
from recbole_siger.errors import UserError
from recbole_siger.prepare.sources import ml_100k

ROOT = Path(__file__).parents[4]
SCRIPT = ROOT / "dataset_scripts" / "ml_100k.py"

ITEMS = """item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq
7\tToy Story\t1995\tAnimation Comedy
3\tThe "Quoted\t1996\tDrama
11\tSense and Sensibility\t1996\tDrama Romance
5\tToy Story Again\t1999\tAnimation Comedy
2\tunnamed\t\t
"""


@pytest.fixture
def atomic_dir(tmp_path: Path) -> Path:
    (tmp_path / "atomic").mkdir()
    (tmp_path / "atomic" / "toy.item").write_text(ITEMS)
    return tmp_path / "atomic"


def test_known_answers(atomic_dir: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ml_100k.prepare(atomic_dir, out, "toy", text_dim=3)
    assert sorted(path.name for path in out.iterdir()) == [
        "toy.genre.ids", "toy.genre.npy", "toy.manifest.json", "toy.text.ids", "toy.text.npy"
    ]  # fmt: skip
    assert (out / "toy.text.ids").read_bytes() == b"7\n3\n11\n5\n2\n"
    assert (out / "toy.genre.ids").read_bytes() == (out / "toy.text.ids").read_bytes()
    genre = np.load(out / "toy.genre.npy")
    assert genre.dtype == np.float32
    assert genre.tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    text = np.load(out / "toy.text.npy")
    assert text.dtype == np.float32
    assert text.shape == (5, 3)
    assert np.allclose(np.linalg.norm(text[:4], axis=1), 1.0)
    similarity = text @ text[0]
    assert similarity[1:].argmax() == 2  # of the others, the second Toy Story is the nearest


def test_manifest(atomic_dir: Path, tmp_path: Path) -> None:
    ml_100k.prepare(atomic_dir, tmp_path / "out", "toy", text_dim=2)
    text = (tmp_path / "out" / "toy.manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["inputs"]["toy.item"]["sha256"] == sha256(atomic_dir / "toy.item")
    assert manifest["features"] == {
        "text": {"dim": 2, "dtype": "float32"},
        "genre": {"dim": 4, "dtype": "float32"},
    }
    assert manifest["genres"] == ["Animation", "Comedy", "Drama", "Romance"]
    assert "scikit-learn" in manifest
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("class:token_seq", "genre:token_seq", "column 'class' is missing"),
        ("3\tThe", "7\tThe", "item_id '7' is repeated; keep one line for each item"),
    ],
)
def test_bad_items(atomic_dir: Path, tmp_path: Path, old: str, new: str, says: str) -> None:
    (atomic_dir / "toy.item").write_text(ITEMS.replace(old, new))
    with pytest.raises(UserError) as caught:
        ml_100k.prepare(atomic_dir, tmp_path / "out", "toy", text_dim=2)
    assert "toy.item" in str(caught.value)
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_missing_items_and_dimensions(atomic_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other\.item: no such file; name the folder .* --atomic_dir"):
        ml_100k.prepare(atomic_dir, tmp_path / "out", "other")
    for text_dim in (0, 5):
        with pytest.raises(UserError, match=rf"text_dim={text_dim}: expected a number in \[1, 4\]"):
            ml_100k.prepare(atomic_dir, tmp_path / "out", "toy", text_dim=text_dim)
    assert not (tmp_path / "out").exists()


def test_script_on_the_embedded_dataset_is_deterministic(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path / "a")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    for folder in ("b", "c"):
        assert ml_100k.main(["--output", str(tmp_path / folder)]) == 0
    for path in (tmp_path / "b").iterdir():
        assert path.read_bytes() == (tmp_path / "c" / path.name).read_bytes()
    for path in (tmp_path / "b").iterdir():  # another process may have another number of threads
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()
    tokens = ["[PAD]", *map(str, range(1, 1683))]
    for modality, dim in (("text", 128), ("genre", 19)):
        features = load_features(tmp_path / "a" / f"ml-100k.{modality}.npy", tokens, strict_ids=True)
        assert features.shape == (1683, dim)
        assert has_feature(features)[1:].all()


def test_script_tells_the_error_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        ml_100k.main(["--atomic_dir", str(tmp_path), "--output", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "ml-100k.item: no such file" in capsys.readouterr().err
