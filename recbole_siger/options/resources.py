"""Find the files that are shipped with the package: ``properties/`` and ``dataset_scripts/``.

The files are at the top of the repository; in an installed wheel they are inside the package.
"""

from __future__ import annotations

import importlib.util
import re
import stat
import sys
from pathlib import Path
from types import ModuleType

from recbole_siger.errors import UserError

__all__ = ["file_beside", "find_resource", "load_script", "regular_file"]

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


def regular_file(path: Path, noun: str, fix: str) -> Path:
    """Return ``path`` if it is a regular file, or a link to one. Every file that a user names passes here.

    A pipe or a device is not opened: a read from it can wait or last for ever.

    Args:
        path: The file.
        noun: What the file is, for the message.
        fix: What the user can do, for the message.

    Raises:
        UserError: If there is no such file, or it is a folder, a pipe, a socket or a device.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path}: no such {noun}; {fix}") from None
    except ValueError:  # a NUL in the name
        raise UserError(f"{str(path)!r}: is not the name of a file; {fix}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); {fix}") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise UserError(f"{path}: is {kind}, not a {noun}; {fix}")
    return path


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
