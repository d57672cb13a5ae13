"""Which finished runs can be used again: same configuration, version, protocol and data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recbole_siger.common.digests import canonical_digest
from recbole_siger.config import Config
from recbole_siger.data.fingerprint import protocol_facts
from recbole_siger.errors import UserError
from recbole_siger.evaluation.protocol import protocol_id
from recbole_siger.options.keys import NO_EFFECT
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies.children import Report

__all__ = ["config_hash", "folders_by_hash", "why_not_current"]

# What tables read of results.json.
_RESULTS: dict[str, type | tuple[type, ...]] = {
    "model": str,
    "dataset": str,
    "seed": int,
    "protocol_id": str,
    "protocol_facts": dict,
    "versions": dict,
    "valid": dict,
    "test": dict,
    "n_parameters": int,
    "seconds_per_epoch": (int, float),
    "peak_memory_mib": (int, float),
}


def config_hash(values: Mapping[str, Any], *, without: Sequence[str] = ()) -> str:
    """Return 16 hexadecimal digits for an effective configuration, without what changes no result.

    >>> config_hash({"lr": 1, "data_path": "a"}) == config_hash({"data_path": "b", "lr": 1})
    True
    """
    kept = {key: value for key, value in values.items() if key not in NO_EFFECT | set(without)}
    return canonical_digest(kept)


def folders_by_hash(folder: Path, report: Report, *patterns: str) -> dict[str, list[RunFolder]]:
    """Find the run folders of a dataset, the winners of searches included.

    A folder whose ``config.yaml`` cannot be read is skipped with one line.

    Args:
        folder: ``<runs_dir>/<dataset>``.
        report: Receives the lines.
        patterns: Glob patterns of the files ``config.yaml``; by default all run folders and winners.

    Returns:
        ``{config_hash: run folders}``, the newest first.
    """
    dated = []
    patterns = patterns or ("*/config.yaml", "tune-*/best-*/config.yaml")
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        try:
            run = RunFolder(file.parent)
            dated.append((file.stat().st_mtime, config_hash(run.read_config()), run))
        except UserError as error:
            report(f"{file.parent}: skipped: {error}")
        except (OSError, TypeError, ValueError, RecursionError) as error:  # values without canonical JSON
            report(f"{file.parent}: skipped: {file.name}: {error}")
    found: dict[str, list[RunFolder]] = {}
    for _, key, run in sorted(dated, key=lambda one: -one[0]):
        found.setdefault(key, []).append(run)
    return found


def why_not_current(run: RunFolder, config: Config) -> str:
    """Return why a finished run cannot be used again, in one line; empty text if it can.

    The data are not compared.

    Args:
        run: A run folder with ``results.json`` and a configuration of the same hash.
        config: The configuration of today.
    """
    try:
        results, digests = run.read_results(), run.read_digests()
    except UserError as error:
        return str(error)
    for key, kind in _RESULTS.items():
        if not isinstance(results.get(key), kind):
            return f"{run.file('results.json')}: damaged, or written by an older version: no {key}"
    made_by, today = results["versions"].get("recbole-siger"), version("recbole-siger")
    if made_by != today:
        return f"made by version {made_by} of recbole-siger, and this is version {today}"
    if missing := {"train", "valid", "test"} - digests.keys():
        return f"{run.file('digests.json')}: damaged: no {', '.join(sorted(missing))}"
    expected = protocol_id(protocol_facts(config, digests))
    if results["protocol_id"] != expected:
        return f"its protocol_id is {results['protocol_id']}, and today's evaluation has {expected}"
    return ""
