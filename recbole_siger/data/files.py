"""Checksums of the files that a configuration reads."""

from __future__ import annotations

import threading
from pathlib import Path

from recbole_siger.common.files import sha256
from recbole_siger.config import Config

__all__ = ["DataFiles"]

# Atomic files of RecBole, and feature matrices with the ids of their rows.
_SUFFIXES = {".inter", ".item", ".user", ".kg", ".link", ".net", ".npy", ".ids"}


class DataFiles:
    """Checksums of data files. A file is read again only if its size or time has changed."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, int, int], str] = {}
        self._lock = threading.Lock()

    def digests(self, config: Config) -> dict[str, str]:
        """Return ``{name: SHA-256}`` of the data files that a configuration can read, sorted by name.

        These are RecBole's atomic files and the feature files in the folder of the dataset, and the feature
        files that the keys ``features`` and ``user_features`` name.
        """
        features, data = Path(config["feature_path"]), Path(config["data_path"])
        listed = (config[key] for key in ("features", "user_features"))
        named = [name for names in listed if isinstance(names, dict) for name in names.values()]
        files = {file.name: file for file in _listed(features)}
        for name in (str(name) for name in named if name):
            files |= {name: features / name, f"{name} ids": (features / name).with_suffix(".ids")}
        if data != features:
            files |= {f"data_path/{file.name}": file for file in _listed(data)}
        return {name: self._digest(file) for name, file in sorted(files.items()) if file.is_file()}

    def _digest(self, file: Path) -> str:
        with self._lock:
            status = file.stat()
            key = (str(file.resolve()), status.st_size, status.st_mtime_ns)
            if key not in self._known:
                self._known[key] = sha256(file)
            return self._known[key]


def _listed(folder: Path) -> list[Path]:
    return [file for file in folder.glob("*") if file.suffix in _SUFFIXES and not file.name.startswith(".")]
