"""Find a model class by name.

A name is looked up in three places: the table ``MODELS`` of this package, the entry points of installed
packages in the group ``recbole_siger.models``, and RecBole. ``package.module:Class`` names any other class by
import path.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbole_siger import compat
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean
from recbole_siger.options.resources import file_beside, find_resource

__all__ = [
    "GROUP",
    "MODELS",
    "ModelSpec",
    "check_model_class",
    "check_model_name",
    "check_model_of_file",
    "check_stored_name",
    "get_model_class",
    "is_of_recbole",
    "is_shipped",
    "model_name",
    "model_names",
    "model_packages",
    "option_files",
    "recbole_root",
    "search_file",
    "short_name",
    "short_names",
]

GROUP = "recbole_siger.models"
"""The entry-point group in which an installed package lists its models."""

_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@dataclass(frozen=True)
class ModelSpec:
    """Where a model lives. The model is imported only when :meth:`load` is called.

    Attributes:
        name: The name of the model on a command line.
        module: The module that defines the class.
        attribute: The name of the class, if it differs from ``name``.
        package: The distribution that brings the model.
        venue: Where the paper appeared, such as ``MM 2021``.
        paper: The paper's number on arXiv; "" if the paper is not there.
        reads: What the model needs beside interactions.
        ranks_cold_items: The ``scores_cold_items`` of the class, which is not imported to answer.
    """

    name: str
    module: str
    attribute: str = ""
    package: str = "recbole_siger"
    venue: str = ""
    paper: str = ""
    reads: Literal["", "any modalities", "one text", "no features"] = ""
    ranks_cold_items: bool = False

    @property
    def facts(self) -> str:
        """The paper, the features and the cold items in one line; "" without a venue.

        >>> ModelSpec("M", "m", venue="MM 2021", paper="2104.09036", reads="one text").facts
        'MM 2021      arXiv:2104.09036  one text'
        """
        paper = f"arXiv:{self.paper}" if self.paper else ""
        cold = "ranks cold items" if self.ranks_cold_items else ""
        return f"{self.venue:11}  {paper:16}  {self.reads:14}  {cold}".rstrip()

    @property
    def path(self) -> str:
        """The import path, ``package.module:Class``."""
        return f"{self.module}:{self.attribute or self.name}"

    def load(self) -> type[Any]:
        """Import and return the model class.

        Raises:
            UserError: If the module or the class is missing, or the class is not a general recommender.
        """
        return _import_class(self.path, f"model {self.name!r} of {self.package}")


_GENERAL = "recbole_siger.model.general_recommender"


def _ours(name: str, venue: str, paper: str, reads: Any, *, cold: bool = False) -> ModelSpec:
    return ModelSpec(
        name, f"{_GENERAL}.{name.lower()}", venue=venue, paper=paper, reads=reads, ranks_cold_items=cold
    )


_SPECS = [
    _ours("SIGER", "arXiv 2025", "2508.06154", "any modalities", cold=True),
    _ours("VBPR", "AAAI 2016", "1510.01784", "any modalities", cold=True),
    _ours("LATTICE", "MM 2021", "2104.09036", "any modalities", cold=True),
    _ours("BM3", "WWW 2023", "2207.05969", "any modalities"),
    _ours("FREEDOM", "MM 2023", "2211.06924", "any modalities", cold=True),
    _ours("MGCN", "MM 2023", "2308.03588", "any modalities", cold=True),
    _ours("SCALE", "AAAI 2026", "", "any modalities", cold=True),
    _ours("LayerGCN", "ICDE 2023", "2207.11088", "no features"),
    _ours("MENTOR", "AAAI 2025", "2402.19407", "any modalities", cold=True),
    _ours("MIGGT", "AAAI 2025", "2412.13994", "any modalities", cold=True),
    _ours("RLMRec", "WWW 2024", "2310.15950", "one text"),
    _ours("DiffMM", "MM 2024", "2406.11781", "any modalities", cold=True),
    _ours("KAR", "RecSys 2024", "2306.10933", "one text", cold=True),
    _ours("SLMRec", "TMM 2022", "", "any modalities", cold=True),
    _ours("LGMRec", "AAAI 2024", "2312.16400", "any modalities", cold=True),
    _ours("DAMRS", "KDD 2024", "2406.12501", "any modalities", cold=True),
]
MODELS = {spec.name: spec for spec in _SPECS}


def recbole_root() -> Path:
    """Return RecBole's package folder without importing RecBole."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("RecBole is not installed; run `pip install -e .`, then `recbole-siger doctor`")
    return Path(spec.submodule_search_locations[0])


# ---- names


def model_names() -> list[str]:
    """List all model names: those of this package, of installed packages, and of RecBole."""
    return [*MODELS, *sorted({spec.name for spec in _installed()} - set(MODELS)), *_names_in_recbole()]


def check_model_name(name: str, source: str = "") -> None:
    """Check that a model is registered, or that its name is an import path; nothing is imported.

    Args:
        name: The name.
        source: The file that has the name, for the message.

    Raises:
        UserError: With the closest name.
    """
    if ":" not in name and name not in model_names():
        what = f"{source}: model={name!r}: no such model" if source else f"Unknown model {name!r}"
        raise UserError(f"{what}{did_you_mean(name, model_names())} (all: `recbole-siger models`)")


def model_packages() -> dict[str, str]:
    """Return ``{model name: package}`` in the order of :func:`model_names`; no model is imported.

    Raises:
        UserError: If two packages use one name.
    """
    installed = {spec.name: spec for spec in _installed()}
    for name in installed:
        _check_clash(name)
    found = {name: spec.package for name, spec in {**installed, **MODELS}.items()}
    return {name: found.get(name, "recbole") for name in model_names()}


def model_name(model_class: type[Any]) -> str:
    """Return the name under which a class is found: a registered name, or the import path."""
    path = f"{model_class.__module__}:{model_class.__qualname__}"
    for spec in (*MODELS.values(), *_installed()):
        if spec.path == path:
            return spec.name
    return model_class.__name__ if model_class.__module__.startswith("recbole.model.") else path


def short_name(name: str) -> str:
    """Return a name for folders and tables: the class of an import path, any other name as it is.

    >>> short_name("my_package.my_module:MyModel"), short_name("SIGER")
    ('MyModel', 'SIGER')
    """
    return name.rpartition(":")[2]


def short_names(names: list[str]) -> dict[str, str]:
    """Return ``{name: short name}``; a name whose short name is not unique keeps its full form.

    >>> short_names(["a.b:M", "c.d:N", "SIGER", "e:N"])
    {'a.b:M': 'M', 'c.d:N': 'c.d:N', 'SIGER': 'SIGER', 'e:N': 'e:N'}
    """
    short = [short_name(name) for name in names]
    return {name: one if short.count(one) == 1 else name for name, one in zip(names, short, strict=True)}


def check_stored_name(name: str, source: str) -> None:
    """Reject an import path that a file names, because importing it runs code.

    A file may name a registered model, or the import path of an installed entry point.

    Raises:
        UserError: With the option that allows the import.
    """
    if ":" in name and name not in {spec.path for spec in _installed()}:
        raise UserError(
            f"{source}: model={name!r}: a file cannot import code; if you trust this model, add "
            f"--model={name} to the command (Python: model={name!r})"
        )


def check_model_of_file(name: str, source: str) -> None:
    """Check the model that a file names: no import path, and a known name; nothing is imported.

    Raises:
        UserError: As :func:`check_stored_name` and :func:`check_model_name`.
    """
    check_stored_name(name, source)
    check_model_name(name, source)


# ---- classes


def get_model_class(name: str) -> type[Any]:
    """Return the model class for a registered name or an import path.

    Raises:
        UserError: If there is no such model, if two packages use the name, or if the class is not a general
            recommender.
    """
    if ":" in name:
        return _import_class(name, f"model {name!r}")
    _check_clash(name)
    if name in MODELS:
        return MODELS[name].load()
    for spec in _installed():
        if spec.name == name:
            return spec.load()
    check_model_name(name)
    compat.apply()
    import torch
    from recbole.utils import get_model

    try:
        # SINE's module turns on the detection of anomalies for the whole process, and every sequential model
        # imports it; each step would check all gradients for NaN.
        with torch.autograd.set_detect_anomaly(torch.is_anomaly_enabled()):
            return get_model(name)
    except (ImportError, ValueError) as error:
        raise UserError(f"RecBole's model {name!r} cannot be imported: {error}") from error


def _installed() -> Iterator[ModelSpec]:
    """Yield the models of installed packages; the packages are not imported."""
    for entry in importlib.metadata.entry_points(group=GROUP):
        package = entry.dist.name if entry.dist else "?"
        yield ModelSpec(entry.name, *entry.value.replace(" ", "").partition(":")[::2], package=package)


def _names_in_recbole() -> list[str]:
    shipped = {path.stem for path in (recbole_root() / "properties" / "model").glob("*.yaml")}
    return sorted((shipped | {"Random"}) - set(MODELS) - {spec.name for spec in _installed()})


def _check_clash(name: str) -> None:
    """Reject an entry point whose name another package uses."""
    specs = [spec for spec in _installed() if spec.name == name]
    if not specs:
        return
    known = [spec.package for spec in specs]
    if name in MODELS:
        known.insert(0, "recbole_siger")
    elif name == "Random" or (recbole_root() / "properties" / "model" / f"{name}.yaml").is_file():
        known.insert(0, "recbole")
    if len(known) > 1:
        raise UserError(
            f"model {name!r} is defined by {' and by '.join(known)}; rename the entry point of "
            f"{known[-1]}, or use --model={specs[-1].path}"
        )


def _import_class(path: str, what: str) -> type[Any]:
    """Import ``package.module:Class`` and check that it is a general recommender."""
    if not _PATH.fullmatch(path):
        raise UserError(f"{what}: {path!r} is not an import path; write package.module:Class")
    module, _, name = path.partition(":")
    compat.apply()
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = str(error.name)
        if f"{module}.".startswith(f"{missing}."):
            hint = "install its package, or add its folder to PYTHONPATH"
            raise UserError(f"{what}: no module named {missing!r}; {hint}") from None
        raise UserError(f"{what}: {module} imports {missing!r}, which is not installed") from error
    model_class = getattr(found, name, None)
    if model_class is None:
        classes = [key for key, value in vars(found).items() if inspect.isclass(value)]
        raise UserError(f"{what}: module {module} has no class {name!r}{did_you_mean(name, classes)}")
    return check_model_class(model_class, what)


def check_model_class(model_class: Any, what: str) -> type[Any]:
    """Return a class that can be trained as a model.

    Raises:
        UserError: If it is not a class, not a general recommender, or lacks a method.
    """
    from recbole.model.abstract_recommender import GeneralRecommender

    if not inspect.isclass(model_class) or not issubclass(model_class, GeneralRecommender):
        raise UserError(
            f"{what}: not a model; derive the class from MultimodalRecommender or from RecBole's "
            "GeneralRecommender"
        )
    missing: frozenset[str] = getattr(model_class, "__abstractmethods__", frozenset())
    if missing:
        raise UserError(f"{what}: the class does not implement {', '.join(sorted(missing))}")
    return model_class


# ---- files of options


def is_shipped(model_class: type[Any]) -> bool:
    """Return whether a class belongs to this package or to RecBole."""
    return _root(model_class) in ("recbole_siger", "recbole")


def is_of_recbole(model_class: type[Any]) -> bool:
    """Tell whether a class belongs to RecBole."""
    return _root(model_class) == "recbole"


def option_files(model_class: type[Any]) -> list[tuple[str, Path]]:
    """Return label and path of each YAML with defaults of an imported model, weakest first.

    ``<Class>.yaml`` lies beside the module of the class. A class that is derived from another model inherits
    the defaults of that model.
    """
    found = []
    for cls in reversed(model_class.__mro__):
        shipped = f"properties/model/{cls.__name__}.yaml"
        places: list[tuple[str, Path | None]] = []
        if _root(cls) == "recbole":
            places.append((f"recbole/{shipped}", recbole_root() / shipped))
        if is_shipped(cls):
            places.append((shipped, find_resource(shipped)))
        else:
            path = file_beside(cls, f"{cls.__name__}.yaml")
            places.append((str(path), path))
        found += [(label, path) for label, path in places if path is not None and path.is_file()]
    return found


def search_file(model_class: type[Any], name: str) -> Path | None:
    """Return the YAML with the default space of a search, or None.

    It is ``properties/search/<Model>.yaml``, or ``<Class>.search.yaml`` beside the module of an
    imported model.
    """
    if is_shipped(model_class):
        return find_resource(f"properties/search/{name}.yaml")
    return file_beside(model_class, f"{model_class.__name__}.search.yaml")


def _root(cls: type[Any]) -> str:
    return cls.__module__.partition(".")[0]
