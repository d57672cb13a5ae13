"""Keys of a configuration that change no result, by kind.

Runs that differ only in such keys share a ``config_hash``. A search resumes with other values of such keys,
tables do not name them, and no search tries them.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["KINDS", "NO_EFFECT", "Kind", "keys_of"]

Kind = Literal["path", "script", "device", "writing", "unused", "pickle"]

_BY_KIND: dict[Kind, tuple[str, ...]] = {
    # Folders: where data, runs and graphs are.
    "path": ("data_path", "run_dir", "cache_dir"),
    # What makes missing input files; a run checks the content of its inputs by checksum.
    "script": ("prepare",),
    # Where a run is computed. The default ``use_gpu: True`` trains on the CPU where there is no GPU.
    # Another number of threads, like another processor, may add floats in another order. A captured step runs
    # the kernels of an eager step.
    "device": ("gpu_id", "use_gpu", "threads", "compile"),
    # What is written, how often, and to which service.
    "writing": (
        "saved",
        "save_embeddings",
        "save_features",
        "checkpoint_interval",
        "logger",
        "log_wandb",
        "wandb_project",
    ),
    # RecBole's keys without effect here: the run folder and the progress lines replace them.
    "unused": ("checkpoint_dir", "show_progress", "state"),
    # RecBole pickles what these keys name, and reading a pickle runs code: any value is rejected.
    "pickle": ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path"),
}

KINDS: dict[str, Kind] = {key: kind for kind, keys in _BY_KIND.items() for key in keys}
"""Kind of each key that changes no result."""

NO_EFFECT = frozenset(KINDS)
"""All keys that change no result."""


def keys_of(*kinds: Kind) -> frozenset[str]:
    """Return the keys of some kinds.

    >>> sorted(keys_of("script", "device"))
    ['compile', 'gpu_id', 'prepare', 'threads', 'use_gpu']
    """
    return frozenset(key for kind in kinds for key in _BY_KIND[kind])
