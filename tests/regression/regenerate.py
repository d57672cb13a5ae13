"""Write ``golden.json`` again: ``OMP_NUM_THREADS=1 python -m tests.regression.regenerate``.

Run it only when results are meant to change, and say so in the CHANGELOG under "Changes results".
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from recbole_siger.registry import MODELS
from tests.conftest import make_experiment, train_steps

GOLDEN = Path(__file__).with_name("golden.json")
N_STEPS = 3


def golden_steps(model: str, folder: Path) -> list[dict[str, float]]:
    """Return the loss terms of the first steps of a model on the toy data."""
    return train_steps(make_experiment(folder, model), N_STEPS)


def main() -> None:
    """Write every registered model's steps."""
    steps = {}
    for model in sorted(MODELS):
        with tempfile.TemporaryDirectory() as folder:
            steps[model] = golden_steps(model, Path(folder))
    GOLDEN.write_text(json.dumps(steps, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
