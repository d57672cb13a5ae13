"""Model name to class. Our models stand in one explicit table; every other name is RecBole's."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_siger import compat
from recbole_siger.errors import UserError
from recbole_siger.options.params import did_you_mean

__all__ = ["MODELS", "ModelSpec", "get_model_class", "model_names", "recbole_root"]


@dataclass(frozen=True)
class ModelSpec:
    """Where a model of this package lives; imported only when asked for."""

    name: str
    module: str

    def load(self) -> type[Any]:
        """Import and return the model class."""
        return getattr(importlib.import_module(self.module), self.name)


_GENERAL = "recbole_siger.model.general_recommender"

_SPECS = [
    ModelSpec("SIGER", f"{_GENERAL}.siger"),
    ModelSpec("VBPR", f"{_GENERAL}.vbpr"),
    ModelSpec("LATTICE", f"{_GENERAL}.lattice"),
    ModelSpec("BM3", f"{_GENERAL}.bm3"),
    ModelSpec("FREEDOM", f"{_GENERAL}.freedom"),
    ModelSpec("MGCN", f"{_GENERAL}.mgcn"),
]
MODELS = {spec.name: spec for spec in _SPECS}


def recbole_root() -> Path:
    """Return RecBole's package folder without importing RecBole."""
    spec = importlib.util.find_spec("recbole")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("RecBole is not installed; run `pip install -e .`, then `recbole-siger doctor`")
    return Path(spec.submodule_search_locations[0])


def model_names() -> list[str]:
    """List all model names: ours first, then RecBole's."""
    shipped = {path.stem for path in (recbole_root() / "properties" / "model").glob("*.yaml")}
    return [*MODELS, *sorted((shipped | {"Random"}) - set(MODELS))]


def get_model_class(name: str) -> type[Any]:
    """Return the model class for ``name``.

    Raises:
        UserError: If neither this package nor RecBole has such a model.
    """
    if name in MODELS:
        return MODELS[name].load()
    if name not in model_names():
        raise UserError(
            f"Unknown model {name!r}{did_you_mean(name, model_names())} (all: `recbole-siger models`)"
        )
    compat.apply()
    from recbole.utils import get_model

    try:
        return get_model(name)
    except (ImportError, ValueError) as error:
        raise UserError(f"RecBole's model {name!r} cannot be imported: {error}") from error
