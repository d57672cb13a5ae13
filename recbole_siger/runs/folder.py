"""The run folder: all that is needed to recommend, compare, resume or report. No pickle.

::

    config.yaml          every effective value
    ids/users.txt        raw tokens, line i for id i; items.txt likewise
    digests.json         checksums of the splits and of the features
    data_files.json      checksums of the data files, written by `compare`
    metrics.jsonl        a line an epoch
    run.log              what was printed
    model.safetensors    the best epoch
    checkpoint.safetensors   the last epoch, while the run is unfinished
    users.csv            test metrics of each user
    embeddings.safetensors, seen.safetensors, content.safetensors, items.tsv
                         what recommends without the dataset, see recbole_siger.runs.scoring
    results.json         written last: a folder that has it is finished
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
from recbole_siger.runs.checkpoint import State

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CHECKPOINT", "RunFolder"]

_FORMAT = "recbole_siger/1"

CHECKPOINT = "checkpoint.safetensors"


class RunFolder:
    """Read and write one run folder; every file appears whole or not at all."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path) -> RunFolder:
        """Make the folder of a new run.

        Raises:
            UserError: If another run lives there.
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
        """Remove the folder of a run that stopped before it began; one that has a config.yaml stays."""
        if not self.file("config.yaml").exists():
            self.file("run.log").unlink(missing_ok=True)
            if not any(self.path.iterdir()):
                self.path.rmdir()

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            UserError: If it is none.
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
        """Keep the effective configuration."""
        write_text(
            self.file("config.yaml"), yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
        )

    def read_config(self) -> dict[str, Any]:
        """Return what :meth:`write_config` kept.

        Raises:
            UserError: If the file is damaged.
        """
        file = self.file("config.yaml")
        try:
            values = _load_yaml(file.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
            raise UserError(f"{file}: damaged: {_first_line(error)}; train again") from None
        if not isinstance(values, dict) or not {"model", "dataset"} <= set(values):
            raise UserError(f"{file}: not written by recbole-siger (no model or dataset in it)")
        if odd := [key for key in values if not isinstance(key, str)]:
            raise UserError(f"{file}: damaged: the key {odd[0]!r} is not text; train again")
        return values

    def write_ids(self, users: Sequence[str], items: Sequence[str]) -> None:
        """Keep the raw tokens, so that ids mean the same later."""
        self.file("ids").mkdir(exist_ok=True)
        for name, tokens in (("users", users), ("items", items)):
            write_text(self.file(f"ids/{name}.txt"), "".join(f"{token}\n" for token in tokens))

    def check_ids(self, users: Sequence[str], items: Sequence[str]) -> None:
        """Compare today's dataset with the one that was trained on.

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
                    f"{file}: the dataset's {name} are others now than in training; restore it or train again"
                )

    def write_digests(self, digests: Mapping[str, str]) -> None:
        """Keep a checksum of each split and of each feature matrix."""
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
        """Compare today's splits and features with those that were trained on.

        Raises:
            UserError: Naming those that changed.
        """
        file, kept = self.file("digests.json"), self.read_digests()
        changed = sorted(name for name in kept.keys() | digests.keys() if kept.get(name) != digests.get(name))
        if changed:
            raise UserError(
                f"{file}: other data now than in training: {', '.join(changed)}; restore them or train again"
            )

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add an epoch's line to ``metrics.jsonl``."""
        with self.file("metrics.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")

    def truncate_metrics(self, n_epochs: int) -> None:
        """Drop the lines of epochs that a resumed run repeats."""
        file = self.file("metrics.jsonl")
        if file.exists():
            write_text(
                file,
                "".join(f"{line}\n" for line in file.read_text(encoding="utf-8").splitlines()[:n_epochs]),
            )

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of ``metrics.jsonl``, one an epoch.

        Raises:
            UserError: If there is none or the file is damaged.
        """
        file = self.file("metrics.jsonl")
        try:
            return [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        except FileNotFoundError:
            raise UserError(f"{file}: missing; the run has not finished an epoch") from None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{file}: damaged: {error}; train again") from None

    def write_users(self, frame: pd.DataFrame) -> None:
        """Keep the test metrics of each user: ``user_id``, ``n_train``, and a column a metric and cut-off."""
        write_text(self.file("users.csv"), frame.to_csv(index=False, lineterminator="\n"))

    def read_users(self) -> pd.DataFrame:
        """Return what :meth:`write_users` kept, every digit of it; ``user_id`` is text.

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
        """Keep the results and drop the checkpoint: the run is finished."""
        write_text(self.file("results.json"), json.dumps(results, indent=2) + "\n")
        self.file(CHECKPOINT).unlink(missing_ok=True)

    def read_results(self) -> dict[str, Any]:
        """Return what :meth:`write_results` kept.

        Raises:
            UserError: If the run is unfinished, or the file is damaged.
        """
        file = self.file("results.json")
        if not file.is_file():
            raise UserError(
                f"{file}: missing; the run is unfinished, `recbole-siger resume {self.path}` first"
            )
        try:
            results = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise UserError(f"{file}: damaged; train again") from None
        if not isinstance(results, dict):
            raise UserError(f"{file}: damaged: holds a {type(results).__name__}; train again")
        return results

    # ---- tensors

    def write_tensors(self, name: str, state: Mapping[str, Tensor], **metadata: Any) -> None:
        """Write a safetensors file with JSON metadata."""
        whole = {key: value.detach().cpu().contiguous().clone() for key, value in state.items()}
        with atomic_path(self.file(name)) as temporary:
            # One key, because safetensors orders several at random; bytes, because save_file hides its file
            # from everyone but the owner.
            temporary.write_bytes(save(whole, metadata={_FORMAT: json.dumps(metadata)}))

    def read_tensors(self, name: str) -> tuple[State, dict[str, Any]]:
        """Return what :meth:`write_tensors` wrote.

        Raises:
            UserError: If the file is missing, damaged or foreign.
        """
        file = self.file(name)
        if not file.is_file():
            hint = (
                "it was run with --saved=False"
                if name == "model.safetensors"
                else "the run has not got so far"
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
    """Read ``{name: checksum}``; None for a missing file or any other content."""
    try:
        digests = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    plain = isinstance(digests, dict) and all(isinstance(value, str) for value in digests.values())
    return digests if plain else None


_MOST_NODES = 100_000


def _load_yaml(text: str) -> Any:
    """Read YAML without tags that run code; refuse aliases that stand for very many values."""
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _n_nodes(node, {}) > _MOST_NODES:
            raise yaml.YAMLError(f"more than {_MOST_NODES:,} values, or an alias within itself")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _n_nodes(node: yaml.Node, known: dict[int, float]) -> float:
    """Count the nodes below one, an alias as often as it occurs; infinity for an alias within itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")
        parts: Any = node.value if not isinstance(node, yaml.ScalarNode) else ()
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_n_nodes(part, known) for part in parts)
    return known[id(node)]
