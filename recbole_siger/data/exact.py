"""RecBole's datasets with exact data: ids as text, times in 64 bits, and one line for what is wrong."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from recbole.data import dataset as recbole_datasets
from recbole.data.dataset import Dataset, KnowledgeBasedDataset
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_siger.config import Config
from recbole_siger.data.atomic import AtomicFile, Field
from recbole_siger.data.failures import explain_recbole
from recbole_siger.data.settings import active_filters, check_columns, check_settings
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["ExactDataset", "dataset_class"]

_log = logging.getLogger(__name__)

_CHECK = "check the dataset's files and the options of the data (`recbole-siger config MODEL` lists them)"


class ExactDataset(Dataset):
    """A RecBole dataset that reads atomic files with :class:`AtomicFile`.

    A subclass that has another of RecBole's datasets as its second base is of that kind.

    Args:
        config: The configuration.

    Raises:
        UserError: If a file is missing or wrong, or an option of the data is wrong or without an effect.
    """

    inter_feat: Any  # a DataFrame before the split, then an Interaction

    def __init__(self, config: Config) -> None:
        self._folder = Path(config["data_path"])
        self._inter_fields: tuple[str, list[Field]] | None = None  # of the first file of interactions
        self._exact_times: NDArray[Any] | None = None
        self._check_files(config)
        check_settings(config)
        with explain_recbole(f"{self._folder}: dataset {config['dataset']!r} cannot be loaded", _CHECK):
            super().__init__(config)

    def _check_files(self, config: Config) -> None:
        """Refuse a dataset without its files; RecBole would offer to download some by name."""
        name, splits = config["dataset"], config["benchmark_filename"]
        listed = splits if isinstance(splits, list) else []
        expected = [f"{name}.{split}.inter" for split in listed] or [f"{name}.inter"]
        missing = [file for file in expected if not (self._folder / file).is_file()]
        if missing:
            raise UserError(
                f"{self._folder / missing[0]}: no such dataset file; put RecBole's atomic files there, "
                "set --data_path, or make them with `recbole-siger prepare` or `recbole-siger import-mmrec`"
            )
        linked = [f"{name}.kg", f"{name}.link"] if isinstance(self, KnowledgeBasedDataset) else []
        missing = [file for file in linked if not (self._folder / file).is_file()]
        if missing:
            raise UserError(
                f"{self._folder / missing[0]}: no such file; {config['model']} needs a knowledge graph: put "
                f"{name}.kg and {name}.link there, or choose another model"
            )

    # ---- reading

    def _load_feat(self, filepath: str, source: FeatureSource | str) -> pd.DataFrame | None:
        suffix = source.value if isinstance(source, FeatureSource) else source
        load, unload = self._get_load_and_unload_col(suffix)
        if load == set():
            return None
        file = AtomicFile(Path(filepath), self.config["field_separator"], self.config["encoding"] or "utf-8")
        for key, asked in (("load_col", load), ("unload_col", unload)):
            self._check_asked(file, key, asked or set())
        fields = [f for f in file.fields if (load is None or f.name in load) and f.name not in (unload or ())]
        ids = self._check_ids_loaded(file, suffix, fields)
        if not fields:
            return None
        for field in fields if suffix != "link" else ():
            self._register(field, source)
        columns = file.read(fields, ids)
        if self.time_field in columns and Field(self.time_field, "float") in fields:
            file.check_complete(self.time_field, columns[self.time_field])
        if suffix == "inter" and not len(columns[fields[0].name]) and self._inter_fields is None:
            raise UserError(f"{filepath}: holds no rows; write one line for each interaction")
        if suffix == "inter":
            self._check_same_columns(file, fields)
        for field in fields:
            if field.type == "token" and field.name not in ids:
                columns[field.name][columns[field.name] == ""] = np.nan  # RecBole's sign for no value
        frame = pd.DataFrame(columns)
        for field in fields:
            if field.type.endswith("_seq"):
                frame[field.name] = self._sequences(field, columns[field.name])
        return frame

    def _check_asked(self, file: AtomicFile, key: str, asked: set[str]) -> None:
        """Refuse names of columns that the file does not have."""
        names = [field.name for field in file.fields]
        for name in sorted(asked - set(names)):
            hint = did_you_mean(name, names)
            raise UserError(
                f"{file.path}: has no column {name!r} (it has {', '.join(names)}){hint}; "
                f"set {key} (from {self.config.origin.get(key, 'configuration')}) to columns of the file, "
                "and USER_ID_FIELD, ITEM_ID_FIELD and TIME_FIELD to their names"
            )

    def _check_ids_loaded(self, file: AtomicFile, suffix: str, fields: list[Field]) -> list[str]:
        """Return the columns whose cells must name something; refuse a file without them."""
        needed = {
            "inter": [("USER_ID_FIELD", self.uid_field), ("ITEM_ID_FIELD", self.iid_field)],
            "user": [("USER_ID_FIELD", self.uid_field)],
            "item": [("ITEM_ID_FIELD", self.iid_field)],
        }.get(suffix, [])
        types = {field.name: field.type for field in fields}
        for key, name in needed:
            if name is None:
                continue
            if name not in types:
                raise UserError(
                    f"{file.path}: {key}={name!r} is not a loaded column (loaded: "
                    f"{', '.join(types) or 'none'}); add the column to the file and to load_col, or set {key}"
                )
            if types[name] != "token":
                raise UserError(f"{file.path}: line 1: {name}:{types[name]} holds ids; write {name}:token")
        if suffix in ("kg", "link"):
            return [name for name, kind in types.items() if kind == "token"]
        return [name for _, name in needed if name is not None]

    def _register(self, field: Field, source: FeatureSource | str) -> None:
        """Register the type, the file and the length of a column with RecBole."""
        self.field2source[field.name] = source
        self.field2type[field.name] = FeatureType(field.type)
        if not field.type.endswith("_seq"):
            self.field2seqlen[field.name] = 1
        if field.type.startswith("float"):
            self.field2bucketnum[field.name] = 2

    def _check_same_columns(self, file: AtomicFile, fields: list[Field]) -> None:
        """Refuse parts of a split with other columns: RecBole would fill them with missing values."""
        if self._inter_fields is None:
            self._inter_fields = (file.path.name, fields)
        first, columns = self._inter_fields
        if set(columns) != set(fields):
            ours, theirs = (", ".join(":".join(field) for field in some) for some in (fields, columns))
            raise UserError(
                f"{file.path}: line 1: has the columns {ours}, but {first} has {theirs}; "
                "give all parts of the split the same columns"
            )

    def _sequences(self, field: Field, cells: NDArray[Any]) -> list[NDArray[Any]]:
        """Split cells into sequences, cut to the option ``seq_len``."""
        separator, asked = self.config["seq_separator"], (self.config["seq_len"] or {}).get(field.name)
        kind: Any = np.float64 if field.type == "float_seq" else np.str_
        try:
            rows = [np.array([part for part in cell.split(separator) if part], dtype=kind) for cell in cells]
        except ValueError as error:
            raise UserError(f"{self._folder}: {field.name}: {error}; write numbers") from None
        longest = max(map(len, rows), default=0)
        self.field2seqlen[field.name] = longest if asked is None else min(asked, longest)
        return rows if asked is None else [row[:asked] for row in rows]

    # ---- order, filters, splits

    def _init_alias(self) -> None:  # the first step after all files are read
        check_columns(self.config, self.field2type)
        super()._init_alias()

    def _load_inter_feat(self, token: str, dataset_path: str) -> None:
        super()._load_inter_feat(token, dataset_path)
        if self.benchmark_filename_list is not None:
            return
        ordered, time = self.config["eval_args"]["order"] == "TO", self.time_field
        if ordered and time not in self.inter_feat:
            where = self.config.origin.get("eval_args", "configuration")
            columns = ", ".join(map(str, [*self.inter_feat.columns, time]))
            raise UserError(
                f"{where}: eval_args: order=TO needs the time of each row, and TIME_FIELD={time!r} is not "
                f"loaded; set load_col to {{inter: [{columns}]}}, or order to RO"
            )
        sorted_by_time = ordered or self.config["rm_dup_inter"] is not None
        if sorted_by_time and time in self.inter_feat and self.field2type[time] != FeatureType.FLOAT:
            raise UserError(
                f"{self._folder / token}.inter: line 1: TIME_FIELD={time!r} must hold numbers, because it "
                f"decides the order of rows; write {time}:float"
            )

    def _reset_index(self) -> None:
        if self.inter_feat.empty:
            active = active_filters(self.config)
            if self.config["filter_inter_by_user_or_item"] and len(self.feat_name_list) > 1:
                active["filter_inter_by_user_or_item"] = True
            listed = ", ".join(f"{key}={value!r}" for key, value in active.items())
            raise UserError(
                f"{self._folder}: dataset {self.dataset_name!r}: no interaction is left after {listed}; "
                "filter less"
            )
        super()._reset_index()

    def _user_item_feat_preparation(self) -> None:
        for field in (self.uid_field, self.iid_field):
            if field is not None and (n_rows := int((self.inter_feat[field] < 1).sum())):
                raise UserError(
                    f"{self._folder}: dataset {self.dataset_name!r}: {n_rows:,} rows have no {field}; "
                    "write the id or remove the row"
                )
        if self.time_field in self.inter_feat and self.field2type[self.time_field] == FeatureType.FLOAT:
            self._exact_times = self.inter_feat[self.time_field].to_numpy()
        super()._user_item_feat_preparation()

    def _change_feat_format(self) -> None:
        # RecBole sorts float32, stably: rows that are in the order of their exact times stay so.
        ordered = self.benchmark_filename_list is None and self.config["eval_args"]["order"] == "TO"
        if ordered and self._exact_times is not None:
            order = np.argsort(self._exact_times, kind="stable")
            self.inter_feat = self.inter_feat.iloc[order].reset_index(drop=True)
            self._exact_times = self._exact_times[order]
        super()._change_feat_format()

    def build(self) -> list[Any]:
        """Split the interactions.

        Raises:
            UserError: If RecBole cannot split so, or if a part that the run needs is empty.
        """
        where = self.config.origin.get("eval_args", "configuration")
        what = f"{where}: eval_args={self.config['eval_args']}: {self.dataset_name!r} cannot be split so"
        with explain_recbole(what, "see eval_args in RecBole's documentation"):
            splits = super().build()
        self._check_not_empty(splits)
        return splits

    def _check_not_empty(self, splits: Sequence[Any]) -> None:
        redrawn = self.config.cold_start is not None and self.config.cold_start.redraws
        needed = {
            "training": (splits[0], "no model can be trained"),
            "validation": (splits[1], "no epoch can be selected"),
            "test": (splits[2], "nothing can be tested"),
        }
        for part, (split, why) in needed.items():
            unused = part == "validation" and not self.config.run.eval_step
            if len(split) or (part != "training" and (redrawn or unused)):
                continue
            parts = self.config["benchmark_filename"]
            fix = f"change eval_args={self.config['eval_args']}"
            if parts:
                place = ["training", "validation", "test"].index(part)
                fix = f"write rows into {self.dataset_name}.{parts[place]}.inter"
            if part == "validation":
                fix += ", or set --eval_step=0 to train all epochs without validation"
            raise UserError(
                f"{self._folder}: dataset {self.dataset_name!r}: the {part} split is empty, so {why}; {fix}"
            )


def dataset_class(config: Config) -> type[ExactDataset]:
    """Return the class of dataset that RecBole has for a model, with exact data.

    Args:
        config: The configuration; its model and the model's kind decide.
    """
    kinds = {ModelType.SEQUENTIAL: "SequentialDataset", ModelType.KNOWLEDGE: "KnowledgeBasedDataset"}
    named = getattr(recbole_datasets, f"{config['model']}Dataset", None)
    base = named or getattr(recbole_datasets, kinds.get(config["MODEL_TYPE"], "Dataset"))
    if base is Dataset:
        return ExactDataset
    return type(f"Exact{base.__name__}", (ExactDataset, base), {})
