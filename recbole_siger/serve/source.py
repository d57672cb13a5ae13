"""The run that is served: a run folder, or the newest complete run of a folder; and what is read of it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_siger.errors import UserError
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.runs.item_texts import read_item_texts
from recbole_siger.runs.scoring import EMBEDDINGS_FILE, ITEMS_FILE

__all__ = ["IMAGE_TYPES", "Loaded", "find_run", "identity_of", "load_run", "read_image"]

Ids = NDArray[np.int64]

IMAGE_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
}
"""Media type of each suffix of a picture."""

MAX_IMAGE_BYTES = 16 * 2**20
_SAFE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_MARKS = ("config.yaml", "results.json", EMBEDDINGS_FILE)

Identity = tuple[str, int, int]


@dataclass(frozen=True)
class Loaded:
    """A run in memory. Nothing of a Loaded changes; a reload or new items make another Loaded.

    Attributes:
        folder: The run folder, without symbolic links.
        identity: What tells this run from a newer run at the same place.
        recommender: The scores.
        users: ``{raw id: internal id}`` without the padding.
        items: ``{raw id: internal id}`` without the padding, new items included.
        counts: Training rows of each item, shape ``(n_items,)``; 0 for new items.
        popular: Item ids by falling count, then by id, shape ``(n_items - 1,)``.
        titles: Text of each item that has one.
        images: File of each item that has a picture.
        model: Name of the model.
        dataset: Name of the dataset.
    """

    folder: Path
    identity: Identity
    recommender: Recommender
    users: Mapping[str, int]
    items: Mapping[str, int]
    counts: Ids
    popular: Ids
    titles: Mapping[str, str]
    images: Mapping[str, Path]
    model: str
    dataset: str

    def with_items(self, recommender: Recommender) -> Loaded:
        """Return this run with the recommender that also knows new items."""
        items, counts = _ids(recommender.items.tokens), np.zeros(len(recommender.items), dtype=np.int64)
        counts[: len(self.counts)] = self.counts
        return replace(
            self, recommender=recommender, items=items, counts=counts, popular=_by_popularity(counts)
        )


def find_run(source: Path) -> Path:
    """Return the run folder to serve.

    Args:
        source: A run folder, or a folder whose direct children are run folders; a symbolic link to either.

    Returns:
        ``source`` if it is a run folder; else its complete run whose ``results.json``, the file that a run
        writes last, is the newest. Children whose names begin with a dot are not considered.

    Raises:
        UserError: If there is no such folder, or no complete run in it.
    """
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; name a run folder or a folder of runs")
    if (source / "config.yaml").is_file():
        return source.resolve()
    complete = [
        child
        for child in source.iterdir()
        if not child.name.startswith(".") and all((child / name).is_file() for name in _MARKS)
    ]
    if not complete:
        raise UserError(
            f"{source}: neither a run folder nor a folder with a complete run (config.yaml, results.json and "
            f"{EMBEDDINGS_FILE}); name the folder that `recbole-siger run` made"
        )
    return max(complete, key=lambda child: (identity_of(child)[2], child.name)).resolve()


def identity_of(folder: Path) -> Identity:
    """Return path, file number and time of change of a run's ``results.json``; zeros if the file is missing.

    A run that replaces another run at the same path has another identity.
    """
    file = folder / "results.json"
    try:
        facts = file.stat()
    except OSError:
        return (str(folder), 0, 0)
    return (str(folder), facts.st_ino, facts.st_mtime_ns)


def load_run(folder: Path, images: Path | None = None) -> Loaded:
    """Read a run folder and compute one recommendation as a test.

    Args:
        folder: The run folder.
        images: Folder of pictures; by default ``images`` in the run folder, if there is one.

    Raises:
        UserError: If the run cannot recommend, or a file is damaged.
    """
    own = identity_of(folder)
    recommender = Recommender.load(folder)
    values = recommender.run.read_config()
    users, items = _ids(recommender.users.tokens), _ids(recommender.items.tokens)
    counts = np.bincount(recommender.seen["train"].items, minlength=len(recommender.items))
    recommender.recommend(recommender.users.tokens[1:2], 1)  # prepares what requests share
    return Loaded(
        folder,
        own,
        recommender,
        users,
        items,
        counts,
        _by_popularity(counts),
        _titles(recommender, items),
        _pictures(images or folder / "images", items, required=images is not None),
        recommender.scoring.model,
        str(values["dataset"]),
    )


def _ids(tokens: list[str]) -> dict[str, int]:
    return {token: number for number, token in enumerate(tokens) if number}


def _by_popularity(counts: Ids) -> Ids:
    """Return item ids by falling count, then by id, without the padding.

    >>> _by_popularity(np.array([0, 2, 5, 2])).tolist()
    [2, 1, 3]
    """
    return np.argsort(-counts[1:], kind="stable") + 1


def _titles(recommender: Recommender, items: Mapping[str, int]) -> dict[str, str]:
    """Return the first text of each item: the title, where the run has titles."""
    texts = read_item_texts(recommender.run.file(ITEMS_FILE), items)
    firsts = ((item, next(iter(cells.values()), "")) for item, cells in texts.items())
    return {item: text for item, text in firsts if text}


def _pictures(folder: Path, items: Mapping[str, int], *, required: bool) -> dict[str, Path]:
    """Return the picture of each item: a regular file of the folder that is called like the item.

    Only ids of letters, digits, ``.``, ``_`` and ``-`` have a picture. Symbolic links are skipped.
    """
    if not folder.is_dir():
        if required:
            raise UserError(f"command line: --images={folder}: no such folder; correct it or leave it out")
        return {}
    found: dict[str, Path] = {}
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda one: one.name):
            name, suffix = os.path.splitext(entry.name)
            usable = suffix.lower() in IMAGE_TYPES and name in items and _SAFE_NAME.fullmatch(name)
            if usable and entry.is_file(follow_symlinks=False):
                found.setdefault(name, Path(entry.path))
    return found


def read_image(path: Path) -> bytes | None:
    """Return the bytes of a picture; None if it is no longer a regular file of at most 16 MiB."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        facts = os.fstat(number)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_IMAGE_BYTES:
            return None
        with open(number, "rb", closefd=False) as stream:
            return stream.read(MAX_IMAGE_BYTES)
    finally:
        os.close(number)
