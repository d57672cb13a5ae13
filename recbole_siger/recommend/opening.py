"""Open a run folder for recommendations, or say in one line why it cannot recommend."""

from __future__ import annotations

from pathlib import Path

from recbole_siger.errors import UserError
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import EMBEDDINGS_FILE, Scoring, open_scoring

__all__ = ["open_run"]


def open_run(run_dir: str | Path) -> tuple[RunFolder, Scoring]:
    """Open a finished run folder and map its embeddings into memory.

    Raises:
        UserError: If the folder is no run or has no embeddings, with the reason.
    """
    run = RunFolder.open(run_dir)
    if not run.file(EMBEDDINGS_FILE).is_file():
        raise _why_no_embeddings(run)
    return run, open_scoring(run)


def _why_no_embeddings(run: RunFolder) -> UserError:
    file, values = run.file(EMBEDDINGS_FILE), run.read_config()
    if not run.file("results.json").is_file():
        return UserError(f"{file}: missing; the run is unfinished, `recbole-siger resume {run.path}` first")
    if values.get("save_embeddings") is False:
        return UserError(f"{file}: missing; the run had --save_embeddings=False, train again without it")
    if "save_embeddings" not in values:
        return UserError(f"{file}: missing; the run is older than this file, train again")
    return UserError(
        f"{file}: missing; {values['model']} has no vectors and no item matrix that give its scores; use "
        "a model of this package, BPR, LightGCN, NGCF, SGL, ItemKNN, EASE, SLIMElastic or Pop"
    )
