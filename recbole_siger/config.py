"""RecBole's Config with strict checks: every key is known, typed, and has a recorded source."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypeVar, get_args

import yaml

from recbole_siger import compat
from recbole_siger.common.files import file_above, real_path
from recbole_siger.common.process import restored_environment
from recbole_siger.defaults import check_keys, known_keys
from recbole_siger.errors import UserError
from recbole_siger.evaluation.cold_start import build_cold_start
from recbole_siger.options.flags import parse_flag
from recbole_siger.options.keys import KINDS, keys_of
from recbole_siger.options.names import check_dataset_name
from recbole_siger.options.params import (
    Option,
    bounded,
    build_params,
    declared_defaults,
    options,
)
from recbole_siger.options.resources import find_resource
from recbole_siger.options.yaml_values import Loader, parse_text, parse_value, read_yaml, shown
from recbole_siger.registry import (
    check_model_class,
    check_model_of_file,
    get_model_class,
    is_of_recbole,
    is_shipped,
    model_name,
    option_files,
    recbole_root,
)
from recbole_siger.rules.metrics import direction_problem, metric_names, metric_problem
from recbole_siger.rules.nested import form_problem
from recbole_siger.rules.ranges import range_problem
from recbole_siger.rules.unsafe import check_model_allowed, check_unsafe

compat.import_metrics()

from recbole.config import Config as RecBoleConfig  # noqa: E402  # imports RecBole's metrics
from recbole.evaluator import metric_types  # noqa: E402
from recbole.utils import EvaluatorType  # noqa: E402

__all__ = ["Config", "RunParams", "params_from_config", "parse_value", "read_yaml"]

P = TypeVar("P")

COMMAND_LINE = "command line"


@dataclass(frozen=True, kw_only=True)
class RunParams:
    """Options that this package reads itself; ``properties/overall.yaml`` has their defaults."""

    run_dir: str | None
    saved: bool
    save_embeddings: bool
    save_features: bool
    seed: int = bounded("[0, 4294967296)")
    checkpoint_interval: float = bounded("[0, inf)")
    cache_dir: str | None
    modalities: tuple[str, ...] | None
    missing_modality: Literal["zero", "mean"]
    strict_ids: bool
    assume_order: bool
    prepare: str | None
    epochs: int = bounded("[1, inf)")
    stopping_step: int = bounded("[0, inf)")
    min_epochs: int = bounded("[0, inf)")
    patience_from: Literal["plateau", "start"]
    train_negatives: Literal["all", "train_items"] | None
    protocol: Literal["recbole", "mmrec"]
    train_batch_size: int = bounded("[1, inf)")
    eval_batch_size: int = bounded("[1, inf)")
    learner: Literal["adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam"]
    learning_rate: float = bounded("(0, inf)")
    weight_decay: float = bounded("[0, inf)")
    eval_step: int = bounded("[0, inf)")
    worker: int = bounded("[0, inf)")
    threads: int | None = bounded("[1, 1024]")
    compile: Literal["none", "auto"]
    check_memory: Literal["refuse", "warn", "ignore"]
    logger: Literal["none", "tensorboard", "wandb", "mlflow"]
    metric_decimal_place: int = bounded("[1, 16]")


# RecBole accepts more types for these keys than the type of the default.
_FREE_TYPE = {"features", "user_features", "gpu_id", "metrics", "topk", "transform", "eval_args", "load_col"}


@cache
def _keys_of_every_run() -> frozenset[str]:
    """Return the keys of RecBole's ``overall.yaml``, whose ranges hold for any model."""
    return frozenset(read_yaml(recbole_root() / "properties" / "overall.yaml"))


class Config(RecBoleConfig):
    """Configuration of one experiment.

    Precedence, strongest first: command line, ``config_dict``, files (the last file wins), the dataset's
    YAML, the model's YAML, overall. Each of our YAML files overrides RecBole's YAML of the same kind.

    Args:
        model: Model name, import path ``package.module:Class``, or model class; by default the key ``model``.
            An import path is accepted only here and in ``command_line``, because a file must not import code.
        dataset: Dataset name; by default the key ``dataset``.
        config_file_list: YAML files.
        config_dict: Values from Python.
        command_line: ``--key=value`` pairs, still text. Nothing is read from ``sys.argv``.

    Raises:
        UserError: For an unknown key, or a value of the wrong type or range.
    """

    def __init__(
        self,
        model: str | type[Any] | None = None,
        dataset: str | None = None,
        config_file_list: Sequence[str | Path] | None = None,
        config_dict: Mapping[str, Any] | None = None,
        command_line: Mapping[str, str] | None = None,
    ) -> None:
        self._typed = {"config_dict": dict(config_dict or {}), COMMAND_LINE: dict(command_line or {})}
        self._external: list[tuple[str, dict[str, Any]]] = []  # weakest first
        self.origin: dict[str, str] = {}
        compat.apply()
        try:
            with restored_environment("CUDA_VISIBLE_DEVICES"):  # RecBole sets it; a run sets it again
                super().__init__(model, dataset, config_file_list, dict(config_dict or {}))
        except (ValueError, TypeError, RuntimeError, NotImplementedError, KeyError) as error:
            raise UserError(f"configuration: {error.args[0] if error.args else error}") from error
        self.run = params_from_config(RunParams, self)
        self.cold_start = build_cold_start(
            self["cold_start"], self._defaults("cold_start.yaml"), self.origin["cold_start"]
        )
        self._check_valid_metric()
        if params_class := getattr(self.model_class, "params_class", None):
            params_from_config(params_class, self)  # a bad value is reported before anything is loaded

    # ---- the two doors of RecBole's Config that this class replaces: what comes in, and what lies under it

    def _init_parameters_category(self) -> None:
        super()._init_parameters_category()
        # RecBole adds a dataset's keys to these lists in place, for every later Config.
        self.parameters: dict[str, list[str]] = {
            category: list(keys) for category, keys in self.parameters.items()
        }

    def _build_yaml_loader(self) -> type[yaml.SafeLoader]:
        return Loader

    def _load_config_files(self, file_list: Sequence[str | Path] | None) -> dict[str, Any]:
        if not isinstance(file_list, list | tuple | None):
            raise UserError(f"config_file_list={shown(file_list)}: write a list of files, as in ['a.yaml']")
        merged: dict[str, Any] = {}
        for file in file_list or ():
            values = read_yaml(Path(file))
            self._external.append((str(file), values))
            merged.update(values)
        return merged

    def _load_variable_config_dict(self, config_dict: dict[str, Any] | None) -> dict[str, Any]:
        # As in RecBole, text is read as a value; names remain text, even a dataset called "2020".
        given = (config_dict or {}).items()
        values = {
            key: value if key in ("model", "dataset") else parse_value(value, f"config_dict: {key}")
            for key, value in given
        }
        self._external.append(("config_dict", values))
        return values

    def _load_cmd_line(self) -> dict[str, Any]:
        typed = self._typed[COMMAND_LINE].items()
        values = {key: parse_value(value, f"{COMMAND_LINE}: {key}") for key, value in typed}
        self._external.append((COMMAND_LINE, values))
        return values

    def _get_model_and_dataset(
        self, model: str | type[Any] | None, dataset: str | None
    ) -> tuple[str, type, str]:
        name = model or self.external_config_dict.get("model")
        data = dataset or self.external_config_dict.get("dataset")
        chosen = None
        if inspect.isclass(name):
            chosen = check_model_class(name, f"model {name.__name__}")
            name = model_name(chosen)
        for key, value in (("model", name), ("dataset", data)):
            if value is None or (key == "model" and not isinstance(value, str)):
                raise UserError(f"configuration: {key}={shown(value)}; set it, as in --{key}=NAME")
        sources = [source for source, values in self._external if "dataset" in values]
        check_dataset_name(data, sources[-1] if sources and not dataset else "configuration")
        name = str(name)
        check_model_allowed(name)
        if not model and "model" not in self._typed[COMMAND_LINE]:
            sources = [source for source, values in self._external if "model" in values]
            check_model_of_file(name, sources[-1])
        return name, chosen or get_model_class(name), str(data)

    def _update_internal_config_dict(self, file: str) -> dict[str, Any]:
        path = Path(file)
        if path.name == "sample.yaml":  # RecBole reads it for any dataset, after the model's defaults
            self._add_model_layers()
        values = read_yaml(path)
        self._push("recbole/properties/" + path.as_posix().rsplit("/properties/", 1)[-1], values)
        if path.name == "overall.yaml":
            self._add_layer("overall.yaml")
        return values

    def _load_internal_config_dict(self, model: str, model_class: type, dataset: str) -> None:
        self.internal_config_dict: dict[str, Any] = {}
        super()._load_internal_config_dict(model, model_class, dataset)
        if not getattr(model_class, "samples_negatives", True):
            self._push(f"{model}.samples_negatives", {"train_neg_sample_args": None})
        self.general_eval_args = dict(self.internal_config_dict.get("eval_args") or {})
        # The folder of the data states facts (files, split); the named YAML states choices, so it comes last.
        values = {**self.internal_config_dict, **self.external_config_dict}
        facts = Path(str(values.get("data_path"))) / dataset / f"{dataset}.yaml"
        if facts.is_file():
            self._check(str(facts), layer := read_yaml(facts))
            self._push(str(facts), layer)
        self._add_layer(f"dataset/{dataset}.yaml", checked=True)
        self._retype()
        for source, given in self._external:
            self._check(source, given)
            self.origin.update(dict.fromkeys(given, source))
        classes = [cls.__name__ for cls in model_class.__mro__]
        check_unsafe(classes, {**self.internal_config_dict, **self.external_config_dict}, self.origin)

    def _retype(self) -> None:
        """Keep text such as ``--run_dir=2024`` for a text option; read yes, no, 1, 0 for a flag."""
        types = {"data_path": str, **{option.name: option.type for option in self.options()}}
        for source, values in self._external[-2:]:
            for key, text in self._typed[source].items():
                kind = types.get(key, type(self.internal_config_dict.get(key)))
                kinds = {kind, *get_args(kind)}
                if key in _FREE_TYPE or not isinstance(text, str):
                    continue
                if bool in kinds:
                    flag = parse_flag(text)
                    values[key] = flag if isinstance(flag, bool) else values[key]
                elif str in kinds:
                    values[key] = parse_text(text, optional=key not in types or NoneType in kinds)
        for _, values in self._external:
            self.external_config_dict.update(values)

    def _push(self, name: str, values: dict[str, Any]) -> None:
        self.internal_config_dict.update(values)
        self.origin.update(dict.fromkeys(values, name))

    def _add_layer(self, relative: str, checked: bool = False) -> None:
        path = find_resource(f"properties/{relative}")
        if path is not None:
            values = read_yaml(path)
            if checked:
                self._check(f"properties/{relative}", values)
            self._push(f"properties/{relative}", values)

    def _add_model_layers(self) -> None:
        if is_shipped(self.model_class):
            self._add_layer(f"model/{self.model}.yaml")
            return
        if params_class := getattr(self.model_class, "params_class", None):
            self._push(f"defaults of {params_class.__name__}", declared_defaults(params_class))
        for label, path in option_files(self.model_class):
            self._push(label, read_yaml(path))

    @staticmethod
    def _defaults(name: str) -> dict[str, Any]:
        path = find_resource(f"properties/{name}")
        assert path is not None
        return read_yaml(path)

    def _set_default_parameters(self) -> None:
        modes = self.final_config_dict["eval_args"].get("mode", "full")  # RecBole's default
        if problem := metric_problem(self.final_config_dict["metrics"], modes, metric_types):
            listed = shown(self.final_config_dict["metrics"])
            raise UserError(f"{self.origin['metrics']}: metrics={listed}: {problem}")
        # RecBole redirects ml-100k into its own package; features remain under data_path.
        folder = Path(str(self.final_config_dict["data_path"])) / self.dataset
        super()._set_default_parameters()
        self.final_config_dict["feature_path"] = str(folder)

    # ---- strictness

    def refuse_run_dir(self, instead: str) -> None:
        """Check that no run folder is given, for a command that makes several runs.

        Args:
            instead: The option that names the folder of all runs.

        Raises:
            UserError: Naming where ``run_dir`` is given.
        """
        if self.run.run_dir is not None:
            source, value = self.origin["run_dir"], shown(self.run.run_dir)
            raise UserError(f"{source}: run_dir={value}: each run gets its own folder; use {instead}")

    def known_keys(self) -> set[str]:
        """Return every key that this model and dataset understand."""
        return known_keys(self.internal_config_dict) | {option.name for option in self.options()}

    def _check(self, source: str, values: Mapping[str, Any]) -> None:
        """Check values of a dataset's YAML or of the user against the known keys and types."""
        known = self.known_keys()
        for key, value in values.items():
            check_keys(source, [key], known, self.model)
            if KINDS.get(key) == "pickle" and value:
                raise UserError(f"{source}: {key}={value!r}: RecBole pickles what this key names; remove it")
            self._check_type(source, key, value)
            if problem := self._problem(key, value, values):
                raise UserError(f"{source}: {key}={shown(value)}: {problem}")

    def _problem(self, key: str, value: Any, values: Mapping[str, Any]) -> str | None:
        """Return what is wrong with form or range of a value of RecBole's, or None."""
        if isinstance(value, str) and "\0" in value:
            return "text cannot contain the character NUL"
        if key == "cache_dir" and value not in (None, "none"):
            # Unlike Path.expanduser, this raises nothing where the user has no home folder.
            folder = Path(os.path.expanduser(value))
            if found := file_above(folder / "graphs"):
                return f"{found} is a file, not a folder; choose another name, or none to store no graphs"
        further = values.get(
            "additional_feat_suffix", self.external_config_dict.get("additional_feat_suffix")
        )
        tables = [further] if isinstance(further, str) else further or ()
        if problem := form_problem(key, value, tables if isinstance(tables, list) else ()):
            return problem
        ours = any(option.name == key for option in self.options())
        of_recbole = key in _keys_of_every_run() or is_of_recbole(self.model_class)
        return range_problem(key, value) if of_recbole and not ours else None

    def _check_type(self, source: str, key: str, value: Any) -> None:
        """Check a value against the type of its default; RecBole declares no types."""
        default = self.internal_config_dict.get(key)
        if default is None or key in _FREE_TYPE or any(o.name == key for o in self.options()):
            return
        kind = type(default)
        if value is None and kind in (str, list, dict):
            return
        accepted = (int, float) if kind is float else (kind,)
        if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
            raise UserError(f"{source}: {key}={shown(value)}: expected {kind.__name__}, such as {default!r}")

    def _check_valid_metric(self) -> None:
        computed = metric_names(self["metrics"], self["topk"])
        source, chosen = self.origin["valid_metric"], self["valid_metric"]
        if "labeled" in self["eval_args"]["mode"].values() and self["eval_type"] is EvaluatorType.RANKING:
            text = "mode=labeled needs metrics of values, such as AUC; use full"
            raise UserError(f"{self.origin['eval_args']}: eval_args: {text}")
        if chosen.lower() not in map(str.lower, computed):
            among = ", ".join(computed)
            raise UserError(f"{source}: valid_metric={chosen!r} is not among metrics x topk: {among}")
        if problem := direction_problem(self._external, chosen, self["valid_metric_bigger"]):
            raise UserError(problem)

    def tested_metrics(self) -> list[str]:
        """Return the names of the test metrics of a run, as in ``results.json``."""
        return metric_names(map(str.lower, self["metrics"]), self["topk"], sliced=self.cold_start is not None)

    def options(self) -> list[Option]:
        """List the typed options: of the run, then of the model if the model belongs to this package."""
        params_class = getattr(self.model_class, "params_class", None)
        return options(RunParams) + (options(params_class) if params_class else [])

    def portable(self) -> dict[str, Any]:
        """Return :meth:`effective` with absolute paths, for a process with another working folder."""
        values = self.effective()
        for key in keys_of("path"):
            if values.get(key) and (key, values[key]) != ("cache_dir", "none"):
                values[key] = str(real_path(values[key]))
        return values

    def effective(self) -> dict[str, Any]:
        """Return the values for a run folder: all that a file or the user has set; 1 for a float is 1.0."""
        skipped = {"data_path", "run_dir", "MODEL_TYPE", "model", "dataset"} | keys_of("unused", "pickle")
        values = {key: self.final_config_dict[key] for key in self.origin if key not in skipped}
        floats = {key for key, value in self.internal_config_dict.items() if isinstance(value, float)}
        values |= {key: float(x) for key, x in values.items() if type(x) is int and key in floats}
        values["data_path"] = str(Path(self.final_config_dict["feature_path"]).parent)
        # RecBole fills both values from its own dictionaries; the run folder stores the requested values.
        merged = {**self.internal_config_dict, **self.external_config_dict}
        values.update({key: merged[key] for key in ("eval_args", "train_neg_sample_args") if key in merged})
        return {"model": self.model, "dataset": self.dataset, **values}


def params_from_config(cls: type[P], config: Config) -> P:
    """Make a model's typed parameters from the configuration; errors name key, value, range and file."""
    return build_params(cls, config.final_config_dict, config.origin)
