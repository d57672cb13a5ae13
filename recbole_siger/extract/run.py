"""The command `extract`: from a table of items or users, and a folder of images, to feature files."""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from recbole_siger.common.digests import TRAINED_ON, trained_on
from recbole_siger.common.files import delete_leftovers, sha256
from recbole_siger.common.locks import LOCK, locked
from recbole_siger.common.tables import open_table
from recbole_siger.data.features import coverage_text
from recbole_siger.data.names import name_problem
from recbole_siger.data.registering import check_registration, register_feature
from recbole_siger.errors import UserError
from recbole_siger.extract.encoder import Encoder, EncoderSpec
from recbole_siger.extract.image import ImageSource
from recbole_siger.extract.job import Job, Source, load_encoder
from recbole_siger.extract.local import encode_locally
from recbole_siger.extract.output import modality_files, write_modality
from recbole_siger.extract.ray_engine import encode_on_ray
from recbole_siger.extract.shards import WRITING, Shard, ShardStore
from recbole_siger.extract.text import TFIDF, TextSource
from recbole_siger.options.command import dataset_folder
from recbole_siger.options.params import bounded

__all__ = ["ExtractParams", "extract", "output_files"]

Report = Callable[[str], None]

SECONDS_BETWEEN_LINES = 10.0

_NEEDS = {"text": ("text_cols", "template", "max_tokens"), "image": ("image_dir", "image_col")}
"""Options that only a model of this kind reads."""


@dataclass(frozen=True, kw_only=True)
class ExtractParams:
    """Options of `extract`; ``properties/extract.yaml`` documents them and sets their defaults."""

    dataset: str
    items: str
    data_path: str
    kind: Literal["item", "user"]
    modality: str | None
    id_col: str | None
    text_model: str | None
    text_cols: tuple[str, ...] | None
    template: str | None
    max_tokens: int | None = bounded("[1, inf)")
    tfidf_dim: int = bounded("[1, inf)")
    image_model: str | None
    image_dir: str | None
    image_col: str | None
    image_max_pixels: int = bounded("[1, inf)")
    normalize: bool
    batch_size: int = bounded("[1, inf)")
    shard_size: int = bounded("[1, inf)")
    device: Literal["cpu", "cuda"] | None
    threads: int | None = bounded("[1, inf)")
    engine: Literal["local", "ray"]
    workers: int = bounded("[1, inf)")
    overwrite: bool

    @property
    def id_column(self) -> str:
        """Column of the raw tokens."""
        return self.id_col or f"{self.kind}_id"

    def feature(self, encoder: str) -> str:
        """Return the name of the feature that an encoder of ``text`` or ``image`` writes."""
        return self.modality or (encoder if self.kind == "item" else f"user_{encoder}")

    @property
    def folder(self) -> Path:
        """Folder of the dataset."""
        return dataset_folder(self.data_path, self.dataset)


def extract(params: ExtractParams, report: Report) -> list[Path]:
    """Write ``<data_path>/<dataset>/<dataset>.<modality>.npy`` with ids, manifest and list of missing items.

    A text model makes the modality ``text``, an image model makes ``image``; two models make both. With
    ``kind=user`` the rows of the table are users. The new features are listed in the YAML file of the
    dataset. All input is checked before any file is written. After a kill, the same command encodes the
    missing shards only. The files are the same as without the kill, and the same on either engine.

    Args:
        params: The options.
        report: Called with each line for the user.

    Returns:
        The feature files.

    Raises:
        UserError: For bad input.
    """
    outputs = output_files(params)
    jobs = {encodes: _job(params, encodes) for encodes in outputs}
    encoders = {encodes: load_encoder(job) for encodes, job in jobs.items()}
    for encodes, files in outputs.items():
        _extract_one(params, jobs[encodes], encoders[encodes], files, report)
        report(register_feature(params.folder, params.dataset, params.kind, params.feature(encodes)))
    _report_next(params, report)
    return [files["npy"] for files in outputs.values()]


def output_files(params: ExtractParams) -> dict[str, dict[str, Path]]:
    """Return the files that ``text`` and ``image`` write, after checks of the options and of the dataset.

    Raises:
        UserError: If an option is missing, a file exists already, or a feature cannot be listed.
    """
    return {encodes: _files(params, encodes) for encodes in _encoded(params)}


def _encoded(params: ExtractParams) -> list[str]:
    encoded = [encodes for encodes in ("text", "image") if getattr(params, f"{encodes}_model") is not None]
    if not encoded:
        raise UserError(
            "command line: `extract` requires --text_model or --image_model; "
            "see `recbole-siger extract --help`"
        )
    if len(encoded) == 2 and params.modality is not None:
        raise UserError(
            "command line: --modality names one modality, but two models are given; remove one of them"
        )
    if "text" in encoded and (params.text_cols is None) == (params.template is None):
        raise UserError("command line: --text_model requires either --text_cols or --template")
    if "image" in encoded and params.image_dir is None:
        raise UserError("command line: --image_model requires --image_dir")
    for needed, keys in _NEEDS.items():
        for key in keys if needed not in encoded else ():
            if getattr(params, key) is not None:
                raise UserError(
                    f"command line: --{key} has no effect without --{needed}_model; add the model, or remove "
                    f"--{key}"
                )
    if params.text_model == TFIDF and params.max_tokens is not None:
        raise UserError(
            f"command line: --max_tokens={params.max_tokens} has no effect with --text_model={TFIDF}, which "
            "reads whole texts; remove it"
        )
    if params.engine == "local" and params.workers > 1:
        raise UserError(
            f"command line: --workers={params.workers} requires --engine=ray; use --threads with this engine"
        )
    return encoded


def _files(params: ExtractParams, encodes: str) -> dict[str, Path]:
    """Return the files to write after checking that they may be written."""
    modality = params.feature(encodes)
    if problem := name_problem(modality):
        raise UserError(f"modality={modality!r}: {problem}.")
    files = modality_files(params.folder, params.dataset, modality)
    # An interrupted extraction may have written all files but the last one, which is the .npy.
    ours = any(_shards(params, modality).glob(f"*/{WRITING}"))
    for file in [files["npy"]] if ours else files.values():
        if file.exists() and not params.overwrite:
            raise UserError(
                f"{file}: exists already; replace it with --overwrite, or name another --modality."
            )
    check_registration(params.folder, params.dataset, params.kind, modality)
    return files


def _shards(params: ExtractParams, modality: str) -> Path:
    return params.folder / f".{params.dataset}.{modality}.shards"


def _job(params: ExtractParams, encodes: str) -> Job:
    source: Source
    if encodes == "image":
        column = params.image_col or params.id_column
        source = ImageSource.of_folder(Path(str(params.image_dir)), column, params.image_max_pixels)
    elif params.template is not None:
        source = TextSource.of_template(params.template)
    else:
        source = TextSource(tuple(params.text_cols or ()))
    table = open_table(Path(params.items), params.id_column, source.columns, step=params.shard_size)
    if isinstance(source, ImageSource) and not any(source.find(row) for _, row in table.all_rows()):
        raise UserError(
            f"{source.folder}: none of its {len(source.files):,} images is named in column {source.column!r} "
            f"of {table.path}; name the column with --image_col."
        )
    spec = EncoderSpec(
        kind=encodes,
        model=str(getattr(params, f"{encodes}_model")),
        batch_size=params.batch_size,
        device=_device(params.device),
        max_tokens=params.max_tokens if encodes == "text" else None,
        tfidf_dim=params.tfidf_dim,
    )
    return Job(table, source, spec, params.normalize, params.threads)


def _device(asked: str | None) -> str:
    """Return the requested device, or the best available device.

    Raises:
        UserError: If a GPU is requested and torch finds none.
    """
    import torch

    there = torch.cuda.is_available()
    if asked == "cuda" and not there:
        raise UserError("device='cuda': torch finds no GPU; remove the option, or set device=cpu.")
    return asked or ("cuda" if there else "cpu")


def _extract_one(
    params: ExtractParams, job: Job, encoder: Encoder, files: dict[str, Path], report: Report
) -> None:
    modality = params.feature(job.spec.kind)
    shards = _shards(params, modality)
    shards.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{files['npy']}: another process extracts this modality; wait until the process ends."
    with locked(shards.with_suffix(LOCK), busy):
        delete_leftovers(shards.parent, *(path.name for path in files.values()))
        _extract_locked(params, job, encoder, files, shards, report)


def _extract_locked(
    params: ExtractParams, job: Job, encoder: Encoder, files: dict[str, Path], shards: Path, report: Report
) -> None:
    _files(params, job.spec.kind)  # again: another process may have finished since the first check
    modality = params.feature(job.spec.kind)
    items: dict[str, Any] = {
        "file": job.table.path.name,
        "sha256": sha256(job.table.path),
        "bytes": job.table.path.stat().st_size,
    }
    store = ShardStore(shards / job.key(items["sha256"], encoder), len(job.table.offsets))
    todo = store.todo()
    if len(todo) < store.n_shards:
        report(f"{modality}: {store.n_shards - len(todo):,} of {store.n_shards:,} shards exist already")
    if todo:
        with closing(_engine(params, job, encoder, todo)) as finished:
            _store(finished, store, (modality, params.kind), len(todo), report)
    manifest = {
        "format": 1,
        "dataset": params.dataset,
        "kind": params.kind,
        "modality": modality,
        "encoder": dict(encoder.facts),
        "input": {**items, "id_col": params.id_column, **job.source.facts()},
        **_rows_told(job.table.path),
        **{key: getattr(params, key) for key in ("normalize", "batch_size", "shard_size")},
        "device": job.spec.device,
    }
    counts = write_modality(files, store, encoder.dim, manifest, params.kind)["counts"]
    shutil.rmtree(shards)
    n_all = counts[f"{params.kind}s"]
    report(coverage_text(modality, counts["rows"], n_all, encoder.dim, noun=params.kind))
    report(f"written to {files['npy']}" + (f"; see {files['missing.csv'].name}" if counts["missing"] else ""))


def _rows_told(table: Path) -> dict[str, str]:
    """Return the digest of the training rows from which `profiles` wrote a table, if it did."""
    digest = trained_on(table.with_suffix(".manifest.json"), "run `profiles` again")
    return {} if digest is None else {TRAINED_ON: digest}


def _engine(
    params: ExtractParams, job: Job, encoder: Encoder, todo: list[int]
) -> Generator[Shard, None, None]:
    if params.engine == "local":
        return encode_locally(job, encoder, todo)
    return encode_on_ray(job, encoder, todo, params.workers)


def _store(
    finished: Iterator[Shard], store: ShardStore, names: tuple[str, str], n_todo: int, report: Report
) -> None:
    """Store each shard when it arrives, and report the progress from time to time."""
    modality, noun = names
    began = told = time.monotonic()
    n_rows = 0
    for n_done, shard in enumerate(finished, start=1):
        store.put(shard)
        n_rows += len(shard.ids) + len(shard.missing)
        now = time.monotonic()
        if now - told >= SECONDS_BETWEEN_LINES or n_done == n_todo:
            told = now
            rate = n_rows / max(now - began, 1e-9)
            report(f"{modality}: {n_done:,} of {n_todo:,} shards, {n_rows:,} {noun}s, {rate:,.1f} {noun}s/s")


def _report_next(params: ExtractParams, report: Report) -> None:
    elsewhere = "" if params.data_path == "dataset" else f" --data_path={shlex.quote(params.data_path)}"
    model = "SIGER" if params.kind == "item" else "SCALE"
    report(f"next: recbole-siger run --model={model} --dataset={params.dataset}{elsewhere}")
