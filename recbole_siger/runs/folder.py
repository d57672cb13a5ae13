"""The run folder: all that is required to recommend, compare, resume or report. No pickle.

::

    config.yaml          every effective value
    ids/users.txt        raw tokens, line i for id i; items.txt likewise
    digests.json         checksums of the splits and of the features
    data_files.json      checksums of the data files, written by `compare`
    metrics.jsonl        one line for each epoch
    run.log              the log of the run
    model.safetensors    the best epoch
    checkpoint.safetensors   the last epoch, as long as the run is unfinished
    users.csv            test metrics of each user
    embeddings.safetensors, seen.safetensors, features.safetensors, graphs.safetensors, items.tsv
                         files for recommending without the dataset, see recbole_siger.runs.scoring
    results.json         written last: a folder with results.json is finished
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recbole_siger.common.files import delete_leftovers, naming, write_text
from recbole_siger.common.json_files import read_bounded, read_json, read_json_lines
from recbole_siger.common.locks import LOCK, locked
from recbole_siger.common.tensor_files import write_tensor_file
from recbole_siger.errors import UserError
from recbole_siger.runs.checkpoint import State
from recbole_siger.runs.claim import claim_folder, names_in, refuse_links
from recbole_siger.runs.forms import DIGESTS, EPOCH, RESULTS, read_config_file, read_users_file

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CHECKPOINT", "RunFolder"]

CHECKPOINT = "checkpoint.safetensors"

_FORMAT = "recbole_siger/1"
_DAMAGED = "train again"
_COPY = "copy the whole run folder, or train again"
_MISSING = {
    "model.safetensors": f"the run has --saved=False or the folder is damaged, {_DAMAGED}",
    CHECKPOINT: f"the run has not reached a checkpoint or the folder is damaged, {_DAMAGED}",
}
# What a run writes before config.yaml, the mark of a run that has begun.
_BEFORE_START = ("run.log", "ids/users.txt", "ids/items.txt", "digests.json")

_MAX_IDS = 8 * 2**30  # bytes


class RunFolder:
    """Read and write one run folder; every file appears complete or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._is_own = self._is_new = False

    @classmethod
    def create(cls, path: str | Path, *, numbered: bool = False) -> RunFolder:
        """Make the folder of a new run; only one process gets a new folder.

        Args:
            path: The folder. An empty folder that exists is used.
            numbered: Whether to try ``<path>-2``, ``<path>-3``, ... if the folder exists.

        Raises:
            UserError: If the folder has files, or cannot be made.
        """
        run = cls(path)
        if not numbered:
            run._check_unused()
        run.path, run._is_new = claim_folder(run.path, numbered=numbered)
        run._is_own = True
        return run

    def _check_unused(self) -> None:
        names = names_in(self.path)
        if "config.yaml" in names:
            finished = "results.json" in names
            resume = "" if finished else f"`recbole-siger resume {self.path}` continues the run, or "
            raise UserError(
                f"{self.path}: has {'a finished' if finished else 'an unfinished'} run; "
                f"{resume}choose another --run_dir"
            )
        if names and names <= {Path(name).parts[0] for name in _BEFORE_START}:
            raise UserError(
                f"{self.path}: has {', '.join(sorted(names))} and no config.yaml; a run that is killed "
                "before its first epoch leaves such files: delete them unless they are yours, or choose "
                "another --run_dir"
            )
        if names:
            raise UserError(
                f"{self.path}: has files that are not of a run, such as {min(names)}; "
                "choose another --run_dir"
            )

    @contextmanager
    def locked(self, *, unused: bool = False) -> Iterator[None]:
        """Hold the folder: no other process of this package writes to the folder during the block.

        At the end, a folder that this process made is removed if the run did not begin.

        Args:
            unused: Whether the folder must be empty.

        Raises:
            UserError: If another process holds the folder, or the folder has symbolic links.
        """
        busy = f"{self.path}: another process works on this run; wait until the process ends"
        try:
            with locked(self.file(LOCK), busy):
                if unused:
                    self._check_unused()
                refuse_links(self.path)
                delete_leftovers(self.path)
                try:
                    yield
                finally:
                    self.discard_unstarted()
        finally:
            if self._is_new:
                with suppress(OSError):  # the folder has files
                    self.path.rmdir()

    def discard_unstarted(self) -> None:
        """Remove what this process wrote to a new folder, if the run did not begin.

        A run that has a ``config.yaml`` has begun. Other files are never removed.
        """
        if not self._is_own or self.file("config.yaml").exists():
            return
        for name in _BEFORE_START:
            self.file(name).unlink(missing_ok=True)
        if self.file("ids").is_dir() and not any(self.file("ids").iterdir()):
            self.file("ids").rmdir()
        if self._is_new and not any(self.path.iterdir()):
            self.path.rmdir()

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            UserError: If the folder is no run folder.
        """
        run = cls(path)
        if not run.file("config.yaml").is_file():
            raise UserError(
                f"{path}: not a run folder (no config.yaml); name the folder that `recbole-siger run` made"
            )
        return run

    def file(self, name: str) -> Path:
        """Return the path of a file in the folder."""
        return self.path / name

    # ---- text

    @property
    def finished(self) -> bool:
        """Whether the run is finished: ``results.json`` is there."""
        return self.file("results.json").exists()

    def write_config(self, values: Mapping[str, Any]) -> None:
        """Store the effective configuration."""
        write_text(
            self.file("config.yaml"), yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        )

    def read_config(self) -> dict[str, Any]:
        """Return what :meth:`write_config` stored.

        Raises:
            UserError: If the file is damaged.
        """
        return read_config_file(self.file("config.yaml"))

    def write_ids(self, users: Sequence[str], items: Sequence[str]) -> None:
        """Store the raw tokens, so that ids keep their meaning."""
        self.file("ids").mkdir(exist_ok=True)
        for name, tokens in (("users", users), ("items", items)):
            write_text(self.file(f"ids/{name}.txt"), "".join(f"{token}\n" for token in tokens))

    def check_ids(self, users: Sequence[str], items: Sequence[str]) -> None:
        """Compare the ids of a dataset with those used in training.

        Raises:
            UserError: If a token changed its id, or a file is missing or damaged.
        """
        for name, tokens in (("users", users), ("items", items)):
            if self.read_ids(name) != list(tokens):
                raise UserError(
                    f"{self.file(f'ids/{name}.txt')}: the ids of {name} differ from those used in training; "
                    "restore the dataset or train again"
                )

    def read_ids(self, name: str) -> list[str]:
        """Return the raw tokens of ``ids/<name>.txt``, padding first; lines end with LF or CRLF.

        Raises:
            UserError: If the file is missing or damaged, or two lines have the same id.
        """
        file = self.file(f"ids/{name}.txt")
        try:
            text = read_bounded(file, _COPY, max_bytes=_MAX_IDS)
        except FileNotFoundError:
            raise UserError(f"{file}: missing; {_COPY}") from None
        tokens = text.replace("\r\n", "\n").split("\n")[:-1]
        if len(set(tokens)) < len(tokens):
            twice = next(token for token, n in Counter(tokens).items() if n > 1)
            raise UserError(f"{file}: damaged: the id {twice[:50]!r} occurs twice; {_COPY}")
        return tokens

    def write_digests(self, digests: Mapping[str, str]) -> None:
        """Store a checksum of each split and of each feature matrix."""
        write_text(self.file("digests.json"), json.dumps(dict(digests), indent=2) + "\n")

    def read_digests(self) -> dict[str, str]:
        """Return what :meth:`write_digests` stored.

        Raises:
            UserError: If the file is missing or damaged.
        """
        return self._read("digests.json", DIGESTS)

    def write_data_files(self, digests: Mapping[str, str]) -> None:
        """Store a checksum of each data file."""
        write_text(self.file("data_files.json"), json.dumps(dict(digests), indent=2) + "\n")

    def read_data_files(self) -> dict[str, str] | None:
        """Return what :meth:`write_data_files` stored; None if the file is missing or damaged."""
        try:
            return self._read("data_files.json", DIGESTS)
        except UserError:
            return None

    def _read(self, name: str, form: Any, missing: str = f"the run folder is damaged, {_DAMAGED}") -> Any:
        file = self.file(name)
        try:
            return read_json(file, form, _DAMAGED)
        except FileNotFoundError:
            raise UserError(f"{file}: missing; {missing}") from None

    def check_digests(self, digests: Mapping[str, str]) -> None:
        """Compare the splits and features with those used in training.

        Raises:
            UserError: With the names of changed splits and features.
        """
        file, kept = self.file("digests.json"), self.read_digests()
        changed = sorted(name for name in kept.keys() | digests.keys() if kept.get(name) != digests.get(name))
        if changed:
            raise UserError(
                f"{file}: the data differ from those used in training: {', '.join(changed)}; "
                "restore the data or train again"
            )

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append an epoch's line to ``metrics.jsonl``."""
        file = self.file("metrics.jsonl")
        with naming(file), file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def truncate_metrics(self, n_epochs: int) -> None:
        """Remove the lines of epochs that a resumed run repeats.

        Raises:
            UserError: If lines are kept and the file is not text.
        """
        file = self.file("metrics.jsonl")
        if file.exists():
            lines = read_bounded(file, _DAMAGED).splitlines()[:n_epochs] if n_epochs else []
            write_text(file, "".join(f"{line}\n" for line in lines))

    def read_metrics(self, n_epochs: int | None = None, metric: str | None = None) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``, one for each epoch.

        Args:
            n_epochs: Number of epochs whose lines are read, from epoch 0; by default all lines.
            metric: A metric that each validation must have.

        Raises:
            UserError: If the file is missing or damaged, or lacks one of the epochs or the metric.
        """
        file = self.file("metrics.jsonl")
        try:
            rows = read_json_lines(file, EPOCH, _DAMAGED, first=n_epochs)
        except FileNotFoundError:
            raise UserError(f"{file}: missing; the run has not finished an epoch") from None
        if n_epochs is not None and [row["epoch"] for row in rows] != list(range(n_epochs)):
            raise UserError(f"{file}: damaged: expected one line for each epoch below {n_epochs}; {_DAMAGED}")
        for row in rows if metric else ():
            if row["valid"] and metric not in row["valid"]:
                raise UserError(f"{file}: damaged: epoch {row['epoch']} has no {metric}; {_DAMAGED}")
        return rows

    def write_users(self, frame: pd.DataFrame) -> None:
        """Store the test metrics of each user: ``user_id``, ``n_train``, and a column for each metric."""
        write_text(self.file("users.csv"), frame.to_csv(index=False, lineterminator="\n"))

    def read_users(self) -> pd.DataFrame:
        """Return what :meth:`write_users` stored, with all digits; ``user_id`` is text.

        Raises:
            UserError: If the file is missing or damaged.
        """
        return read_users_file(self.file("users.csv"))

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Store the results and delete the checkpoint: the run is finished."""
        write_text(self.file("results.json"), json.dumps(results, indent=2) + "\n")
        self.file(CHECKPOINT).unlink(missing_ok=True)

    def read_results(self) -> dict[str, Any]:
        """Return what :meth:`write_results` stored.

        Raises:
            UserError: If the run is unfinished, or the file is damaged.
        """
        unfinished = f"the run is unfinished, `recbole-siger resume {self.path}` first"
        return self._read("results.json", RESULTS, unfinished)

    # ---- tensors

    def write_tensors(self, name: str, state: Mapping[str, Tensor], **metadata: Any) -> None:
        """Write a safetensors file with JSON metadata."""
        # One name of metadata, because safetensors orders several at random.
        write_tensor_file(self.file(name), state, {_FORMAT: json.dumps(metadata)})

    def read_tensors(self, name: str) -> tuple[State, dict[str, Any]]:
        """Return what :meth:`write_tensors` wrote.

        Raises:
            UserError: If the file is missing, damaged, or not of this package.
        """
        file = self.file(name)
        if not file.is_file():
            raise UserError(f"{file}: missing; {_MISSING.get(name, _COPY)}")
        try:
            with safe_open(file, framework="pt") as stream:
                metadata = stream.metadata() or {}
                state = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118  # not a mapping
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file}: damaged or not a safetensors file ({error}); train again") from None
        if _FORMAT not in metadata:
            raise UserError(
                f"{file}: not written by recbole-siger (no {_FORMAT!r} in its metadata); train again"
            )
        try:
            return state, dict(json.loads(metadata[_FORMAT]))
        except (ValueError, TypeError):
            raise UserError(f"{file}: damaged metadata; train again") from None
