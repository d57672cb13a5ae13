"""SCALE by the command line: what it refuses in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_siger import cli
from tests.integration.conftest import Settings


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--user_profile=user_profile"],
            "user_profile='user_profile' is not a user feature; the dataset lists none; list the feature "
            "under user_features, or set user_profile=mean for the mean of the user's training items",
        ),
        (["--user_features=[bio]"], "SCALE: bio is 5 wide and text 11; encode users and items with one enc"),
        (["--user_features=[cv]"], "toy.cv.npy: no such feature file"),
        (["--user_sparsity=13"], "SCALE: user_sparsity=13 is more than n_candidates=11; lower user_sparsity"),
        (["--item_sparsity=17"], "SCALE: item_sparsity=17 is more than n_candidates=11; lower item_sparsity"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], said: str, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    values = settings(n_candidates=11)
    folder = Path(values["data_path"]) / "toy"
    np.save(folder / "toy.bio.npy", np.ones((3, 5)))
    (folder / "toy.bio.ids").write_text("u0\nu1\nu2\n", encoding="utf-8")
    sizes = {"user_sparsity": 3, "item_sparsity": 3, "user_item_sparsity": 3}
    given = {word.partition("=")[0] for word in words}
    options = [f"--{key}={value}" for key, value in {**values, **sizes}.items() if f"--{key}" not in given]
    assert cli.main(["run", "--model=SCALE", "--dataset=toy", *options, *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
