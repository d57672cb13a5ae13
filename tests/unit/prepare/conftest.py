"""What the tests of ``prepare`` share."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.errors import UserError
from recbole_siger.prepare.run import prepare


class Preparer:
    """Prepares into ``<tmp_path>/dataset`` without filters, unless told otherwise."""

    def __init__(self, tmp_path: Path) -> None:
        self.data_path, self.lines = tmp_path / "dataset", list[str]()

    def __call__(self, kind: str, **values: Any) -> Path:
        given = {"name": "toy", "k_core": "0", "data_path": self.data_path} | values
        self.lines.clear()
        return prepare(kind, {key: str(value) for key, value in given.items()}, self.lines.append)

    def refusal(self, kind: str, **values: Any) -> str:
        """Return the message, after making sure that it is one line and that nothing was written."""
        before = sorted(self.data_path.rglob("*"))
        with pytest.raises(UserError) as caught:
            self(kind, **values)
        assert sorted(self.data_path.rglob("*")) == before
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def run(tmp_path: Path) -> Preparer:
    return Preparer(tmp_path)


def write_lines(path: Path, records: Sequence[Any], dump: Callable[[Any], str] = json.dumps) -> Path:
    """Write one record a line; text stays as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else dump(record) for record in records]
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def manifest(folder: Path) -> Any:
    return json.loads((folder / "manifest.json").read_text(encoding="utf-8"))


def inter(folder: Path) -> list[str]:
    """All rows of the three splits, sorted, without headers."""
    name = folder.name
    files = [folder / f"{name}.{split}.inter" for split in ("train", "valid", "test")]
    return sorted(line for file in files for line in file.read_text(encoding="utf-8").splitlines()[1:])
