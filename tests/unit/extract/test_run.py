"""From a table to feature files: what is written, what is missing, what a kill leaves."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from recbole_siger import cli
from recbole_siger.common.locks import locked
from recbole_siger.data.features import load_features
from recbole_siger.extract import job as job_module
from recbole_siger.extract import local
from recbole_siger.extract import run as run_module

WORDS = ["red", "green", "blue", "car", "apple", "sky", "bus", "juice", "pie", "boat", "lake"]
N_ITEMS = 23


def write_items(folder: Path) -> Path:
    """Write a table of 23 items of which i05 has no text, and i06 a word that nothing else has."""
    rng = np.random.default_rng(3)
    lines = ["item_id\ttitle\tbrand"]
    for item in range(N_ITEMS):
        title = " ".join(rng.choice(WORDS, 4))
        lines.append(f"i{item:02}\t{'' if item == 5 else title}\t{'' if item == 5 else 'Acme'}")
    path = folder / "items.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_images(folder: Path) -> Path:
    """Write an image for each item but i03; that of i07 is cut short, that of i11 is none, i13's is black."""
    folder.mkdir()
    rng = np.random.default_rng(4)
    for item in range(N_ITEMS):
        handle = io.BytesIO()
        pixels = rng.integers(0, 256, (17, 13, 3), dtype=np.uint8) * (item != 13)
        Image.fromarray(pixels).save(handle, "JPEG")
        data = {7: handle.getvalue()[:200], 11: b"none"}.get(item, handle.getvalue())
        if item != 3:
            (folder / f"i{item:02}.jpg").write_bytes(data)
    return folder


class MeanColour:
    """Stands for a model: the mean of each channel."""

    dim, fitted = 3, False

    def __init__(self, facts: dict[str, Any] | None = None) -> None:
        self.facts = facts or {"encoder": "mean colour"}

    def encode(self, payloads: Iterator[Any]) -> np.ndarray:
        rows = [np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in payloads]
        return np.array(rows, dtype=np.float32).reshape(-1, 3)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job_module, "load_image_encoder", lambda spec: MeanColour())
    return write_images(tmp_path / "posters")


def text_words(folder: Path, *more: str, shard_size: int = 4) -> list[str]:
    items = folder / "items.tsv"
    if not items.exists():
        write_items(folder)
    words = ["extract", f"--items={items}", "--dataset=shop", f"--data_path={folder / 'dataset'}"]
    words += ["--text-cols=title,brand", "--text-model=tfidf", "--tfidf_dim=5", f"--{shard_size=}"]
    return [*words, *more]


def image_words(folder: Path, *more: str) -> list[str]:
    text_words(folder)
    words = ["extract", f"--items={folder / 'items.tsv'}", "--dataset=shop", "--image-model=mean"]
    words += [f"--data-path={folder / 'dataset'}", f"--image-dir={folder / 'posters'}", "--shard-size=4"]
    return [*words, *more]


def files_of(folder: Path) -> dict[str, bytes]:
    paths = sorted((folder / "dataset" / "shop").iterdir())
    return {path.name: path.read_bytes() for path in paths if path.is_file()}


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert cli.main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_text_becomes_a_modality(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(text_words(tmp_path)) == 0
    out = capsys.readouterr().out
    assert "text: 22 of 23 items (1 missing), 5-d\n" in out
    assert "next: recbole-siger run --model=SIGER --dataset=shop --data_path=" in out
    assert "shop.yaml: features lists text now\n" in out
    files = files_of(tmp_path)
    names = ["shop.text.ids", "shop.text.json", "shop.text.missing.csv", "shop.text.npy", "shop.yaml"]
    assert list(files) == names
    assert yaml.safe_load(files["shop.yaml"]) == {"features": ["text"]}
    ids = files["shop.text.ids"].decode().split()
    assert ids == [f"i{item:02}" for item in range(N_ITEMS) if item != 5]
    assert files["shop.text.missing.csv"] == b"item_id,reason\ni05,no text\n"
    features = load_features(tmp_path / "dataset/shop/shop.text.npy", ["[PAD]", *ids], strict_ids=True)
    np.testing.assert_allclose(np.linalg.norm(features[1:].numpy(), axis=1), 1, atol=1e-6)


def test_features_of_users(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = text_words(tmp_path, "--kind=user")
    table = tmp_path / "items.tsv"
    table.write_text(table.read_text().replace("item_id", "user_id").replace("i0", "u0"))
    (tmp_path / "dataset" / "shop").mkdir(parents=True)
    (tmp_path / "dataset" / "shop" / "shop.yaml").write_text("features: [text]  # mine\n")
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "user_text: 22 of 23 users (1 missing), 5-d\n" in out
    assert "shop.yaml: user_features lists user_text now\n" in out
    assert "next: recbole-siger run --model=SCALE --dataset=shop --data_path=" in out
    files = files_of(tmp_path)
    assert files["shop.user_text.missing.csv"] == b"user_id,reason\nu05,no text\n"
    told = json.loads(files["shop.user_text.json"])
    assert (told["kind"], told["modality"], told["input"]["id_col"]) == ("user", "user_text", "user_id")
    assert told["counts"] == {"users": 23, "rows": 22, "missing": 1}
    assert files["shop.yaml"].startswith(b"features: [text]  # mine\nuser_features: [user_text]")
    message = refused(capsys, *text_words(tmp_path, "--kind=user", "--modality=text"))
    assert "'text' is a feature of items (features); choose another name with --modality" in message


def test_the_manifest_tells_how(tmp_path: Path) -> None:
    assert cli.main(text_words(tmp_path)) == 0
    files = files_of(tmp_path)
    told = json.loads(files["shop.text.json"])
    assert told["counts"] == {"items": 23, "rows": 22, "missing": 1}
    assert (told["shape"], told["dtype"], told["modality"]) == ([22, 5], "float32", "text")
    assert told["input"]["columns"] == ["title", "brand"]
    assert told["input"]["sha256"] == hashlib.sha256((tmp_path / "items.tsv").read_bytes()).hexdigest()
    for name, digest in told["files"].items():
        assert digest == hashlib.sha256(files[name]).hexdigest()
    assert {"scikit-learn", "scipy"} <= set(told["encoder"]["versions"])
    assert str(tmp_path) not in files["shop.text.json"].decode()


def test_images_that_cannot_be_used_are_named_and_left_out(tmp_path: Path, images: Path) -> None:
    assert cli.main(image_words(tmp_path)) == 0
    files = files_of(tmp_path)
    missing = dict(csv.reader(files["shop.image.missing.csv"].decode().splitlines()[1:]))
    assert list(missing) == ["i03", "i07", "i11", "i13"]
    assert missing["i03"] == "no image"
    assert missing["i07"].startswith("unreadable: ")
    assert missing["i11"] == "not an image"
    assert missing["i13"] == "the encoder gave zeros"
    rows = np.load(tmp_path / "dataset/shop/shop.image.npy")
    assert len(rows) == 19 == len(files["shop.image.ids"].split())
    for item, row in zip(files["shop.image.ids"].decode().split(), rows, strict=True):
        pixels = np.asarray(Image.open(images / f"{item}.jpg").convert("RGB"), dtype=np.float64)
        np.testing.assert_allclose(row, pixels.mean(axis=(0, 1)), rtol=1e-5)


def test_normalize_scales_rows(tmp_path: Path, images: Path) -> None:
    assert cli.main(image_words(tmp_path)) == 0
    plain = np.load(tmp_path / "dataset/shop/shop.image.npy")
    assert cli.main(image_words(tmp_path, "--normalize", "--overwrite")) == 0
    scaled = np.load(tmp_path / "dataset/shop/shop.image.npy")
    np.testing.assert_allclose(scaled, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=1e-6)


def test_both_models_make_both(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*text_words(tmp_path), *(word for word in image_words(tmp_path) if word.startswith("--image"))]
    assert cli.main(words) == 0
    assert {"shop.text.npy", "shop.image.npy"} <= set(files_of(tmp_path))
    assert yaml.safe_load(files_of(tmp_path)["shop.yaml"]) == {"features": ["text", "image"]}
    capsys.readouterr()
    assert "--modality names one modality" in refused(capsys, *words, "--modality=both", "--overwrite")


@pytest.mark.parametrize("kind", ["text", "image"])
def test_a_killed_extraction_goes_on(
    tmp_path: Path, images: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = {"text": text_words, "image": image_words}[kind]
    assert cli.main(words(tmp_path)) == 0
    whole = files_of(tmp_path)
    done: list[int] = []

    def encode(one: Any, encoder: Any, number: int) -> Any:
        if number == 3 and len(done) == 3:
            raise KeyboardInterrupt
        done.append(number)
        return job_module.encode_shard(one, encoder, number)

    monkeypatch.setattr(local, "encode_shard", encode)
    assert cli.main(words(tmp_path, "--overwrite")) == 130
    done.append(-1)
    assert cli.main(words(tmp_path, "--overwrite")) == 0
    assert done == [0, 1, 2, -1, 3, 4, 5]
    assert files_of(tmp_path) == whole


def test_a_kill_between_the_files_leaves_no_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Old rows never stand beside new ids."""
    assert cli.main(text_words(tmp_path)) == 0
    whole = files_of(tmp_path)
    (tmp_path / "items.tsv").write_text((tmp_path / "items.tsv").read_text().replace("i22", "other"))
    from recbole_siger.extract import output

    def write_text(path: Path, text: str) -> None:
        if path.suffix == ".csv":
            raise KeyboardInterrupt
        path.write_text(text)

    with monkeypatch.context() as patch:
        patch.setattr(output, "write_text", write_text)
        assert cli.main(text_words(tmp_path, "--overwrite")) == 130
    assert "shop.text.npy" not in files_of(tmp_path) or files_of(tmp_path) == whole
    assert cli.main(text_words(tmp_path)) == 0
    assert files_of(tmp_path)["shop.text.ids"].endswith(b"other\n")


@pytest.mark.parametrize("ending", ["npy", "ids", "json", "missing.csv"])
def test_files_of_the_user_are_not_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    file = tmp_path / "dataset" / "shop" / f"shop.text.{ending}"
    file.parent.mkdir(parents=True)
    file.write_text("mine\n")
    assert f"{file}: exists already; replace it with --overwrite" in refused(capsys, *text_words(tmp_path))
    assert files_of(tmp_path) == {file.name: b"mine\n"}
    assert cli.main(text_words(tmp_path, "--overwrite")) == 0
    assert files_of(tmp_path)[file.name] != b"mine\n"


def test_shards_without_files_give_no_right_to_replace(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A kill before the files are written; then the user makes one of them."""

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "write_modality", stop)
        assert cli.main(image_words(tmp_path)) == 130
    file = tmp_path / "dataset" / "shop" / "shop.image.ids"
    file.write_text("mine\n")
    assert f"{file}: exists already" in refused(capsys, *image_words(tmp_path))
    assert file.read_text() == "mine\n"


def test_other_options_do_not_take_over_shards(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers: list[int] = []

    def encode(one: Any, encoder: Any, number: int) -> Any:
        numbers.append(number)
        if number == 2 and len(numbers) == 3:
            raise KeyboardInterrupt
        return job_module.encode_shard(one, encoder, number)

    monkeypatch.setattr(local, "encode_shard", encode)
    assert cli.main(image_words(tmp_path)) == 130
    numbers.clear()
    monkeypatch.setattr(job_module, "load_image_encoder", lambda spec: MeanColour({"weights_sha256": "new"}))
    numbers.append(-1)
    assert cli.main(image_words(tmp_path)) == 0
    assert numbers == [-1, 0, 1, 2, 3, 4, 5]


def test_a_replaced_image_is_encoded_again(tmp_path: Path, images: Path, monkeypatch: Any) -> None:
    calls: list[int] = []

    def encode(one: Any, encoder: Any, number: int) -> Any:
        calls.append(number)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return job_module.encode_shard(one, encoder, number)

    monkeypatch.setattr(local, "encode_shard", encode)
    assert cli.main(image_words(tmp_path)) == 130
    Image.new("RGB", (5, 5), "white").save(images / "i00.jpg")
    assert cli.main(image_words(tmp_path)) == 0
    assert calls[3:] == [0, 1, 2, 3, 4, 5]
    assert np.load(tmp_path / "dataset/shop/shop.image.npy")[0].min() > 250


def test_what_is_there_is_kept_unless_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(text_words(tmp_path)) == 0
    whole = files_of(tmp_path)
    assert "exists already; replace it with --overwrite" in refused(capsys, *text_words(tmp_path))
    assert cli.main(text_words(tmp_path, "--overwrite", shard_size=7)) == 0
    for name in ("shop.text.npy", "shop.text.ids", "shop.text.missing.csv"):
        assert files_of(tmp_path)[name] == whole[name]  # rows do not depend on their shard
    assert cli.main(text_words(tmp_path, "--modality=title")) == 0
    assert "shop.title.npy" in files_of(tmp_path)


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--text-cols=title,colour"], "has no column 'colour'"),
        (["--id-col=asin"], "has no column 'asin'"),
        (["--items=nowhere.tsv"], "nowhere.tsv: no such table"),
        (["--tfidf_dim=22"], "tfidf_dim=22: expected a number in [1, 21]"),
        (["--tfidf_dim=0"], "expected a number in [1, inf)"),
        (["--modality=a.b"], "modality='a.b'"),
        (["--dataset=../x"], "dataset='../x'"),
        (["--engine=spark"], "engine='spark'"),
        (["--workers=2"], "requires --engine=ray; use --threads"),
        (["--txt_cols=title"], "has no option --txt_cols; did you mean `text_cols`?"),
        (["--template={title}"], "requires either --text_cols or --template"),
        (["--image-model=efficientnet-lite0"], "requires --image_dir"),
        (["--image-dir=posters"], "--image_dir has no effect without --image_model; add the model"),
        (["--image-col=title"], "--image_col has no effect without --image_model"),
        (["--max-tokens=5"], "--max_tokens=5 has no effect with --text_model=tfidf, which reads whole"),
        (["--image-model=mean", "--image-dir=nowhere"], "nowhere: no such folder"),
        (["stray"], "cannot place 'stray'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], complaint: str
) -> None:
    given = {word.split("=")[0].replace("-", "_") for word in more}
    words = [word for word in text_words(tmp_path) if word.split("=")[0].replace("-", "_") not in given]
    assert complaint in refused(capsys, *words, *more)
    assert not (tmp_path / "dataset").exists()


def test_an_unknown_model_beside_a_good_one_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    posters = write_images(tmp_path / "posters")
    words = [*text_words(tmp_path), f"--image-dir={posters}", "--image-model=nonsense"]
    assert "image_model='nonsense': unknown encoder" in refused(capsys, *words)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.parametrize("words", [text_words, image_words])
def test_a_gpu_that_is_not_there_is_one_line(
    tmp_path: Path,
    images: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: Any,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "device='cuda': torch finds no GPU; remove" in refused(capsys, *words(tmp_path, "--device=cuda"))
    assert not (tmp_path / "dataset").exists()


def test_no_model_and_no_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "requires --text_model or --image_model; see `recbole-siger extract --help`" in refused(
        capsys, "extract", "--items=i.tsv", "--dataset=s"
    )
    assert "command line: extract requires --items" in refused(capsys, "extract", "--dataset=s")


def test_options_of_texts_without_a_text_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("--text-cols=title", "--template={title}", "--max-tokens=5"):
        key = word[2:].partition("=")[0].replace("-", "_")
        message = refused(capsys, *image_words(tmp_path, word))
        assert f"--{key} has no effect without --text_model; add the model, or remove --{key}" in message


def test_no_image_matched(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "none of its 22 images is named in column 'brand'" in refused(
        capsys, *image_words(tmp_path, "--image-col=brand")
    )
    assert not (tmp_path / "dataset").exists()


def test_no_image_is_readable(tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in images.iterdir():
        path.write_bytes(b"none")
    assert "no item has a row (the first: not an image)" in refused(capsys, *image_words(tmp_path))
    assert not [path for path in (tmp_path / "dataset").rglob("*") if path.is_file()]


def test_unwritable_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dataset").write_text("a file")
    assert "dataset" in refused(capsys, *text_words(tmp_path))


def test_one_process_at_a_time_extracts_a_modality(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = text_words(tmp_path)
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    with locked(folder / ".shop.text.lock", "busy"):
        assert cli.main(words) == 2
        assert "another process extracts this modality" in capsys.readouterr().err
        assert [path.name for path in folder.iterdir()] == [".shop.text.lock"]
    (folder / ".shop.text.0123abcd.tmp.npy").write_bytes(b"half")
    assert cli.main(words) == 0
    assert not list(folder.glob(".*"))
