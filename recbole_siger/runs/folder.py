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
    embeddings.safetensors, seen.safetensors, content.safetensors, items.tsv
                         files for recommending without the dataset, see recbole_siger.runs.scoring
    results.json         written last: a folder with results.json is finished
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from recbole_siger.common.files import atomic_path, write_text
from recbole_siger.errors import UserError
from recbole_siger.options.yaml_values import load_yaml, read_bounded
from recbole_siger.runs.checkpoint import State

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CHECKPOINT", "RunFolder"]

_FORMAT = "recbole_siger/1"

CHECKPOINT = "checkpoint.safetensors"


class RunFolder:
    """Read and write one run folder; every file appears complete or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            UserError: If the folder has another run.
        """
        run = cls(path)
        if run.file("config.yaml").exists():
            finished = run.file("results.json").exists()
            fix = (
                "choose another --run_dir"
                if finished
                else f"`recbole-siger resume {path}`, or another --run_dir"
            )
            raise UserError(f"{path}: has {'a finished' if finished else 'an unfinished'} run; {fix}")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be made: {error.strerror}; choose another --run_dir") from None
        return run

    def discard_unstarted(self) -> None:
        """Remove the folder of a run that stopped before it began; keep a folder with a config.yaml."""
        if not self.file("config.yaml").exists():
            self.file("run.log").unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            UserError: If the folder is not a run folder.
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
        file = self.file("config.yaml")
        try:
            values = load_yaml(read_bounded(file))
        except (ValueError, OSError) as error:
            raise UserError(f"{file}: damaged: {_first_line(error)}; train again") from None
        if not isinstance(values, dict) or not {"model", "dataset"} <= set(values):
            raise UserError(f"{file}: not written by recbole-siger (it has no model or dataset)")
        if odd := [key for key in values if not isinstance(key, str)]:
            raise UserError(f"{file}: damaged: the key {odd[0]!r} is not text; train again")
        return values

    def write_ids(self, users: Sequence[str], items: Sequence[str]) -> None:
        """Store the raw tokens, so that ids keep their meaning."""
        self.file("ids").mkdir(exist_ok=True)
        for name, tokens in (("users", users), ("items", items)):
            write_text(self.file(f"ids/{name}.txt"), "".join(f"{token}\n" for token in tokens))

    def check_ids(self, users: Sequence[str], items: Sequence[str]) -> None:
        """Compare the ids of a dataset with those used in training.

        Raises:
            UserError: If a token changed its id.
        """
        for name, tokens in (("users", users), ("items", items)):
            file = self.file(f"ids/{name}.txt")
            if not file.is_file():
                raise UserError(f"{file}: missing; the run folder is damaged, train again")
            try:
                kept = file.read_text(encoding="utf-8").split("\n")[:-1]
            except (OSError, UnicodeDecodeError):
                raise UserError(f"{file}: damaged; train again") from None
            if kept != list(tokens):
                raise UserError(
                    f"{file}: the ids of {name} differ from those used in training; "
                    "restore the dataset or train again"
                )

    def write_digests(self, digests: Mapping[str, str]) -> None:
        """Store a checksum of each split and of each feature matrix."""
        write_text(self.file("digests.json"), json.dumps(dict(digests), indent=2) + "\n")

    def read_digests(self) -> dict[str, str]:
        """Return what :meth:`write_digests` stored.

        Raises:
            UserError: If the file is missing or damaged.
        """
        digests = _read_digests(self.file("digests.json"))
        if digests is None:
            raise UserError(f"{self.file('digests.json')}: missing or damaged; train again")
        return digests

    def write_data_files(self, digests: Mapping[str, str]) -> None:
        """Store a checksum of each data file."""
        write_text(self.file("data_files.json"), json.dumps(dict(digests), indent=2) + "\n")

    def read_data_files(self) -> dict[str, str] | None:
        """Return what :meth:`write_data_files` stored; None if the file is missing or damaged."""
        return _read_digests(self.file("data_files.json"))

    def check_digests(self, digests: Mapping[str, str]) -> None:
        """Compare the splits and features with those used in training.

        Raises:
            UserError: With the names of changed splits and features.
        """
        file, kept = self.file("digests.json"), self.read_digests()
        changed = sorted(name for name in kept.keys() | digests.keys() if kept.get(name) != digests.get(name))
        if changed:
            raise UserError(
                f"{file}: the data differ from those used in training: {', '.join(changed)}; restore "
                "the data or train again"
            )

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append an epoch's line to ``metrics.jsonl``."""
        with self.file("metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def truncate_metrics(self, n_epochs: int) -> None:
        """Remove the lines of epochs that a resumed run repeats."""
        file = self.file("metrics.jsonl")
        if file.exists():
            write_text(
                file,
                "".join(f"{line}\n" for line in file.read_text(encoding="utf-8").splitlines()[:n_epochs]),
            )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``, one for each epoch.

        Raises:
            UserError: If the file is missing or damaged.
        """
        file = self.file("metrics.jsonl")
        try:
            return [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            raise UserError(f"{file}: missing; the run has not finished an epoch") from None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file}: damaged: {error}; train again") from None

    def write_users(self, frame: pd.DataFrame) -> None:
        """Store each user's test metrics: ``user_id``, ``n_train``, a column for each metric and cut-off."""
        write_text(self.file("users.csv"), frame.to_csv(index=False, lineterminator="\n"))

    def read_users(self) -> pd.DataFrame:
        """Return what :meth:`write_users` stored, with all digits; ``user_id`` is text.

        Raises:
            UserError: If the file is missing or damaged.
        """
        import pandas as pd

        file = self.file("users.csv")
        if not file.is_file():
            raise UserError(
                f"{file}: missing; the run is unfinished, ranks nothing, or is older than this file"
            )
        try:
            frame = pd.read_csv(
                file,
                dtype={"user_id": str},
                keep_default_na=False,
                na_values=[],
                float_precision="round_trip",
            )
        except (ValueError, OSError) as error:
            raise UserError(f"{file}: damaged: {str(error).splitlines()[0]}; train again") from None
        numbers = frame.columns.drop("user_id", errors="ignore")
        if list(frame.columns[:2]) != ["user_id", "n_train"] or not all(
            pd.api.types.is_numeric_dtype(frame[name]) for name in numbers
        ):
            raise UserError(f"{file}: damaged: not a table of users and their metrics; train again")
        return frame

    def write_results(self, results: Mapping[str, Any]) -> None:
        """Store the results and remove the checkpoint: the run is finished."""
        write_text(self.file("results.json"), json.dumps(results, indent=2) + "\n")
        self.file(CHECKPOINT).unlink(missing_ok=True)

    def read_results(self) -> dict[str, Any]:
        """Return what :meth:`write_results` stored.

        Raises:
            UserError: If the run is unfinished, or the file is damaged.
        """
        file = self.file("results.json")
        if not file.is_file():
            raise UserError(
                f"{file}: missing; the run is unfinished, run `recbole-siger resume {self.path}` first"
            )
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise UserError(f"{file}: damaged; train again") from None
        if not isinstance(results, dict):
            raise UserError(f"{file}: damaged: contains a {type(results).__name__}; train again")
        return results

    # ---- tensors

    def write_tensors(self, name: str, state: Mapping[str, Tensor], **metadata: Any) -> None:
        """Write a safetensors file with JSON metadata."""
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        with atomic_path(self.file(name)) as temporary:
            # One key, because safetensors orders several keys at random. Bytes, because save_file makes a
            # file
            # that only its owner can read.
            temporary.write_bytes(save(whole, metadata={_FORMAT: json.dumps(metadata)}))

    def read_tensors(self, name: str) -> tuple[State, dict[str, Any]]:
        """Return what :meth:`write_tensors` wrote.

        Raises:
            UserError: If the file is missing, damaged or not written by this package.
        """
        file = self.file(name)
        if not file.is_file():
            hint = (
                "the run has --saved=False"
                if name == "model.safetensors"
                else "the run has not reached a checkpoint"
            )
            raise UserError(f"{file}: missing; {hint} or the folder is damaged, train again")
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


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _read_digests(file: Path) -> dict[str, str] | None:
    """Read ``{name: checksum}``; None if the file is missing or has other content."""
    try:
        digests = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    plain = isinstance(digests, dict) and all(isinstance(value, str) for value in digests.values())
    return digests if plain else None
