"""Interactions with features of items and users, joined by raw token."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_siger.common.digests import digest_of_pairs, trained_on
from recbole_siger.config import Config
from recbole_siger.data.exact import ExactDataset
from recbole_siger.data.features import coverage_line, load_and_count
from recbole_siger.data.names import name_problem
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.resources import load_script

__all__ = ["MultimodalDataset"]

_log = logging.getLogger(__name__)


class MultimodalDataset(ExactDataset):
    """Interactions from atomic files, and ``{modality: features}`` for the models that ask for them.

    A feature file is ``<name>.<modality>.npy`` with ``<name>.<modality>.ids`` beside it, in the dataset's
    folder; the key ``features`` lists the modalities.

    Attributes:
        whole: The split of which this is the part with cold items; None if it is all of a split.
    """

    whole: MultimodalDataset | None = None

    def __init__(self, config: Config) -> None:
        self._item_features: dict[str, Tensor] = {}
        self._user_features: dict[str, Tensor] = {}
        self._trained_on: dict[str, str | None] = {}  # digest of the rows from which user features were made
        super().__init__(config)

    def _change_feat_format(self) -> None:
        super()._change_feat_format()
        times, self._exact_times = self._exact_times, None  # the splits need no second copy
        scaled = self.config["normalize_all"] or self.time_field in (self.config["normalize_field"] or ())
        if times is not None and not scaled and self.inter_feat[self.time_field].dim() == 1:
            whole = (
                times.dtype.kind == "f"
                and (np.abs(times) < 2.0**62).all()
                and (times == np.trunc(times)).all()
            )
            self.inter_feat[self.time_field] = torch.from_numpy(
                times.astype(np.int64) if whole else times.copy()
            )

    @property
    def train_edges(self) -> Tensor:
        """Interactions of this split, users then items, ``(2, E)``; models are given the training split."""
        return torch.stack([self.inter_feat[self.uid_field], self.inter_feat[self.iid_field]])

    @property
    def item_tokens(self) -> Sequence[str]:
        """Raw token of each item id; the first is RecBole's padding."""
        return self.field2id_token[self.iid_field].tolist()

    @property
    def user_tokens(self) -> Sequence[str]:
        """Raw token of each user id; the first is RecBole's padding."""
        return self.field2id_token[self.uid_field].tolist()

    def feature_files(self) -> dict[str, Path]:
        """Map each modality that the dataset lists under ``features`` to its file.

        Raises:
            UserError: If the key is neither a list nor a mapping, or a name cannot be a file's part.
        """
        return self._listed_files("features")

    def user_feature_files(self) -> dict[str, Path]:
        """Map each user feature that the dataset lists under ``user_features`` to its file.

        Raises:
            UserError: As :meth:`feature_files`; or if a name is also the name of an item feature.
        """
        files = self._listed_files("user_features")
        for name in files:
            if name in self.feature_files():
                where = self.config.origin.get("user_features", "configuration")
                raise UserError(f"{where}: user_features: {name!r} is also an item feature; rename one file")
        return files

    def _listed_files(self, key: str) -> dict[str, Path]:
        listed: Any = self.config[key] or []
        folder = Path(self.config["feature_path"])
        where = self.config.origin.get(key, "configuration")
        if isinstance(listed, list) and not any(isinstance(name, list | dict) for name in listed):
            listed = dict.fromkeys(listed)
        if not isinstance(listed, dict):
            raise UserError(
                f"{where}: {key}={listed!r}: write a list such as [image, text], or {{image: FILE}}"
            )
        files = {}
        for name, file in listed.items():
            if problem := name_problem(name):
                raise UserError(f"{where}: {key}: {name!r} is not the name of a feature; {problem}")
            if file is not None and (not isinstance(file, str) or not file):
                raise UserError(f"{where}: {key}: {name}={file!r}: write the name of a .npy file")
            files[name] = folder / (file or f"{self.dataset_name}.{name}.npy")
        return files

    def modalities(self) -> tuple[str, ...]:
        """Return the modalities that a model uses: the key ``modalities``, or all that are listed."""
        files, config = self.feature_files(), self.config
        chosen = tuple(files) if config.run.modalities is None else config.run.modalities
        if not files:
            raise UserError(
                f"dataset {self.dataset_name!r} lists no item features and {config['model']} needs some: "
                f"list them, as in `features: [image, text]`, in properties/dataset/{self.dataset_name}.yaml "
                "or in a config file"
            )
        for name in chosen:
            if name not in files:
                where = config.origin.get("modalities", "configuration")
                raise UserError(
                    f"{where}: modalities: {name!r} is not a feature of {self.dataset_name!r}"
                    f"{did_you_mean(name, files)} (features: {', '.join(files)})"
                )
        if not chosen or len(set(chosen)) != len(chosen):
            raise UserError(f"modalities={list(chosen)!r}: name each modality once, and at least one")
        return chosen

    def item_features(
        self, dtype: torch.dtype | None = None, names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Load ``{modality: (n_items, F_m)}``, row 0 and rows of items without a feature zero.

        The dataset keeps each table once, in the type of the last call.

        Args:
            dtype: float32 or bfloat16; None: the key ``feature_dtype``, float32 if the model has no such key.
            names: Which of :meth:`modalities`; by default all.
        """
        run, files = self.config.run, self.feature_files()
        if dtype is None:
            dtype = torch.bfloat16 if self.config["feature_dtype"] == "bfloat16" else torch.float32
        chosen = self.modalities() if names is None else tuple(names)
        wanted = [file for name in chosen for file in (files[name], files[name].with_suffix(".ids"))]
        if run.prepare and not all(file.is_file() for file in wanted):
            self._prepare(run.prepare)
        for name in chosen:
            table = self._item_features.get(name)
            if table is None or table.dtype not in (dtype, torch.float32):
                table = self._read_features(name, files[name], self.item_tokens, "item", dtype)
            self._item_features[name] = table.to(dtype)
        return {name: self._item_features[name] for name in chosen}

    def loaded_features(self, name: str) -> Tensor | None:
        """Return the features of a modality as :meth:`item_features` loaded them; None if it has not."""
        return self._item_features.get(name)

    def user_features(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Load ``{name: (n_users, F) float32}``, row 0 and rows of users without a feature zero.

        Args:
            names: Which of :meth:`user_feature_files`.
        """
        files = self.user_feature_files() if names else {}
        for name in names:
            if name not in self._user_features:
                self._user_features[name] = self._read_features(name, files[name], self.user_tokens, "user")
                manifest = files[name].with_suffix(".json")
                self._trained_on[name] = trained_on(manifest, "extract the feature again")
        return {name: self._user_features[name] for name in names}

    def check_user_features(self, names: Sequence[str]) -> None:
        """Refuse user features that were written from another split, whose training rows are held out here.

        Raises:
            UserError: If `profiles` wrote a feature from other rows than those of this training split.
        """
        known = {name: digest for name in names if (digest := self._trained_on.get(name))}
        if not known:
            return
        users, items = np.array(self.user_tokens), np.array(self.item_tokens)
        edges = self.train_edges.numpy()
        here = digest_of_pairs(zip(users[edges[0]], items[edges[1]], strict=True))
        for name, digest in known.items():
            if digest != here:
                raise UserError(
                    f"{self.user_feature_files()[name]}: was written from the training rows of another "
                    "split, which can be validation or test rows here; run `recbole-siger profiles` with the "
                    "seed and the config files of this run, or set user_profile=mean"
                )

    def _read_features(
        self, name: str, file: Path, tokens: Sequence[str], noun: str, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Load one feature file; log its coverage, and warn if it adds nothing."""
        run = self.config.run
        table, n_unknown = load_and_count(
            file, tokens, strict_ids=run.strict_ids, assume_order=run.assume_order, noun=noun, dtype=dtype
        )
        _log.info(coverage_line(name, table, noun=noun, n_unknown=n_unknown))
        if not table.any():
            _log.warning("%s: all values for %ss of the dataset are zero; %s adds nothing", file, noun, name)
        return table

    def _prepare(self, script: str) -> None:
        folder = Path(self.config["feature_path"])
        _log.info(
            "making item features of %s in %s with dataset_scripts/%s.py", self.dataset_name, folder, script
        )
        try:
            module = load_script(script)
        except FileNotFoundError as error:
            where = self.config.origin.get("prepare", "configuration")
            raise UserError(f"{where}: prepare={script!r}: there is no {error}") from None
        module.prepare(Path(self.config["data_path"]), folder, self.dataset_name)
