"""Find the files that travel with the package: ``properties/`` and ``dataset_scripts/``.

They lie at the top of the repository, and inside the package once a wheel is installed.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["file_beside", "find_resource", "load_script"]

_PACKAGE = Path(__file__).resolve().parents[1]


def find_resource(relative: str) -> Path | None:
    """Return the path of a shipped file or folder such as ``properties/overall.yaml``, or None."""
    for root in (_PACKAGE, _PACKAGE.parent):
        path = root / relative
        if path.exists():
            return path
    return None


def file_beside(cls: type, name: str) -> Path | None:
    """Return the path of a file beside the module of a class from another package, or None."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or cls.__module__.partition(".")[0] == _PACKAGE.name:
        return None
    path = Path(file).with_name(name)
    return path if path.is_file() else None


def load_script(name: str) -> ModuleType:
    """Import ``dataset_scripts/<name>.py``.

    Raises:
        FileNotFoundError: If there is no such script.
    """
    # A dataset's YAML may name the script, so the name must not lead out of the folder.
    path = find_resource(f"dataset_scripts/{name}.py") if re.fullmatch(r"\w+", name) else None
    spec = importlib.util.spec_from_file_location(f"recbole_siger_script_{name}", path) if path else None
    if spec is None or spec.loader is None:
        raise FileNotFoundError(f"dataset_scripts/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
