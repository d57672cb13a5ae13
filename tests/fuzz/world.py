"""A folder with good inputs of every command, copies of it, and what a command does to a copy."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import signal
import stat
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from recbole_siger import cli
from recbole_siger.extract import job as job_module
from recbole_siger.studies.children import Children
from recbole_siger.testing.toy import make_toy
from tests.fuzz.strategies import Edit

__all__ = ["Case", "make_world", "problems"]

SECONDS = 30.0
"""Longest duration of a command; a command that waits for a pipe would last for ever."""

QUICK = ("--gpu_id=", "--epochs=1", "--embedding_size=3", "--train_batch_size=500", "--topk=[2]")
QUICK += ("--valid_metric=Recall@2", "--threads=1")


@dataclass(frozen=True)
class Case:
    """A command on changed inputs.

    Attributes:
        words: The command line; ``@/`` stands for the case's folder.
        edits: Changes of files, applied in order.
        files: Files to write, relative to the case's folder.
        writes: Folders, relative to the case's folder, that the command may change.
        codes: Exit codes that are accepted.
    """

    words: Sequence[str]
    edits: Sequence[Edit] = ()
    files: dict[str, bytes] = field(default_factory=dict)
    writes: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0, 2)

    def show(self) -> str:
        """Return the command, and the edits and files, as text to reproduce the case."""
        lines = [f"words: {list(self.words)!r}", *(f"edit:  {edit!r}"[:2_000] for edit in self.edits)]
        return "\n".join([*lines, *(f"file:  {name}: {data!r}"[:2_000] for name, data in self.files.items())])


def make_world(root: Path) -> Path:
    """Write good inputs of every command below ``root``, finished runs among them."""
    make_toy().write(root / "data" / "toy")
    rng = np.random.default_rng(5)
    pairs = [(user, item) for user in range(11) for item in rng.permutation(13)[:7]]
    _write_raw(root / "raw", pairs)
    _write_mmrec(root / "mmrec", pairs, rng)
    (root / "posters").mkdir()
    for item in range(5):
        pixels = Image.fromarray(rng.integers(0, 256, (7, 11, 3), dtype=np.uint8))
        pixels.save(root / "posters" / f"{item}.{'jpg' if item % 2 else 'png'}")
    (root / "conf.yaml").write_text("learning_rate: 0.01\ntrain_batch_size: 100\neval_args: {order: RO}\n")
    (root / "prompt.txt").write_text("Be brief.\n---\nWhat is it?\n{item}\n")
    for name in ("work", "outside"):
        (root / name).mkdir()
    (root / "outside" / "note.txt").write_text("keep\n")
    for model in ("BPR", "SIGER"):
        words = ["run", f"--model={model}", "--dataset=toy", f"--data_path={root / 'data'}", *QUICK]
        words += [f"--run_dir={root / 'runs' / 'toy' / model}", f"--cache_dir={root / 'cache'}"]
        with _captured():
            assert cli.main(words) == 0
    return root


def _write_raw(folder: Path, pairs: list[tuple[int, Any]]) -> None:
    folder.mkdir()
    rows = [f"{user},{item},{1 + item % 5},{1_000 + 7 * number}" for number, (user, item) in enumerate(pairs)]
    (folder / "inter.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]) + "\n")
    items = [f'{item},"Item {item}, ""new""",Acme' for item in range(13)]
    (folder / "items.csv").write_text("\n".join(["item_id,title,brand", *items]) + "\n")
    (folder / "u.data").write_text("\n".join(row.replace(",", "\t") for row in rows) + "\n")
    movies = [f"{item}|Film {item} (19{item + 60})|01-Jan-1995||http://x|{'0|' * 18}1" for item in range(13)]
    (folder / "u.item").write_text("\n".join(movies) + "\n")
    (folder / "MicroLens-50k_pairs.csv").write_text("\n".join(["user,item,timestamp", *_short(rows)]) + "\n")
    (folder / "MicroLens-50k_titles.csv").write_text("".join(f"{item},Title {item}\n" for item in range(13)))
    reviews = [
        f'{{"reviewerID": "u{user}", "asin": "i{item}", "overall": 5.0, "unixReviewTime": {number}}}'
        for number, (user, item) in enumerate(pairs)
    ]
    (folder / "reviews_Baby_5.json").write_text("\n".join(reviews) + "\n")
    meta = [f"{{'asin': 'i{item}', 'title': 'T {item}', 'categories': [['A', 'B']]}}" for item in range(13)]
    (folder / "meta_Baby.json").write_text("\n".join(meta) + "\n")


def _short(rows: list[str]) -> list[str]:
    return [",".join([*row.split(",")[:2], row.split(",")[3]]) for row in rows]


def _write_mmrec(folder: Path, pairs: list[tuple[int, Any]], rng: np.random.Generator) -> None:
    folder.mkdir()
    rows = [f"{user}\t{item}\t{(0, 0, 0, 0, 1, 2, 0)[n % 7]}" for n, (user, item) in enumerate(pairs)]
    (folder / "toy.inter").write_text("\n".join(["userID\titemID\tx_label", *rows]) + "\n")
    for modality, width in (("image", 5), ("text", 3)):
        np.save(folder / f"{modality}_feat.npy", rng.normal(size=(13, width)).astype(np.float32))


class _MeanColour:
    """Stands for an image model: the mean of each channel."""

    dim, fitted = 3, False
    facts: dict[str, Any] = {"encoder": "mean colour"}  # noqa: RUF012

    def encode(self, payloads: Iterator[Any]) -> np.ndarray:
        rows = [np.asarray(image, dtype=np.float32).mean(axis=(0, 1)) for image in payloads]
        return np.array(rows, dtype=np.float32).reshape(-1, 3)


def snapshot(root: Path, but: Sequence[str]) -> dict[str, str]:
    """Return name -> kind and digest of everything below ``root``, except in the folders ``but``."""
    found = {}
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if str(here / name) not in but]
        for name in (*folders, *files):
            path = Path(folder) / name
            mode = path.lstat().st_mode
            regular = stat.S_ISREG(mode)
            found[str(here / name)] = (
                hashlib.sha256(path.read_bytes()).hexdigest() if regular else str(stat.S_IFMT(mode))
            )
    return found


@contextlib.contextmanager
def _captured() -> Iterator[tuple[io.StringIO, io.StringIO]]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err


class TooLongError(BaseException):
    """A command lasts too long; no ``except Exception`` stops it."""


def _too_long(*_: Any) -> None:
    raise TooLongError


@contextlib.contextmanager
def _surroundings(root: Path) -> Iterator[None]:
    """Work in the case's folder, with a home and a folder of temporary files of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("home", "tmp"):
            (root / name).mkdir()
        patch.setenv("HOME", str(root / "home"))
        patch.setenv("XDG_CACHE_HOME", str(root / "home" / "cache"))
        patch.setenv("TMPDIR", str(root / "tmp"))
        patch.setattr(tempfile, "tempdir", None)
        patch.setattr(job_module, "load_image_encoder", lambda spec: _MeanColour())
        patch.setattr(Children, "run", lambda *_: (2, "error: not in this test\n"))  # processes take seconds
        patch.chdir(root / "work")
        before = signal.signal(signal.SIGALRM, _too_long)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def problems(world: Path, case: Case) -> list[str]:
    """Run a case on a copy of the world; return what is wrong, nothing if all is well."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        root = Path(folder) / "case"
        shutil.copytree(world, root)
        for edit in case.edits:
            edit.apply(root)
        for name, data in case.files.items():
            (root / name).write_bytes(data)
        but = (*case.writes, "home", "tmp")
        before, began = snapshot(root, but), time.monotonic()
        words = [word.replace("@/", f"{root}/") for word in case.words]
        code, raised = None, None
        with _captured() as (out, err):
            try:
                with _surroundings(root):
                    code = cli.main([*words, "--debug"])
            except TooLongError:
                raised = f"lasts longer than {time.monotonic() - began:.0f} seconds"
            except (Exception, SystemExit) as error:
                where = traceback.extract_tb(error.__traceback__)[-4:]
                lines = " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(where))
                raised = f"{type(error).__name__}: {str(error)[:300]} at {lines}"
        found = [raised] if raised else _complaints(case, code, out.getvalue(), err.getvalue())
        after = snapshot(root, but)
        changed = sorted(name for name in {*before, *after} if before.get(name) != after.get(name))
        if changed:
            found.append(f"changed outside the given folders: {changed[:5]}")
        return found


def _complaints(case: Case, code: int | None, out: str, err: str) -> list[str]:
    found = []
    if code not in case.codes:
        found.append(f"exit code {code}: {err[-300:]}")
    if "Traceback" in err:
        found.append(f"a traceback on stderr: {err[-500:]}")
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    if code == 2 and (len(errors) != 1 or not err.endswith("\n") or err.splitlines()[-1] != errors[0]):
        found.append(f"exit code 2 without one line at the end of stderr: {err[-500:]!r}")
    if code == 2 and errors and len(errors[0]) > 3_000:
        found.append(f"an error of {len(errors[0]):,} characters: {errors[0][:200]}")
    for name, text in (("stdout", out), ("stderr", err)):
        odd = {letter for letter in text if not letter.isprintable() and letter not in "\n\t"}
        if odd:
            at = min(text.index(letter) for letter in odd)
            found.append(
                f"{name} has control characters {sorted(odd)!r}: {text[max(0, at - 150) : at + 50]!r}"
            )
    return found
