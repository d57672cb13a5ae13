"""Every option is listed with its default, range and meaning; every value with its source."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from recbole_siger.cli.describe import print_effective, print_options, read_meanings
from recbole_siger.config import Config, RunParams
from recbole_siger.errors import UserError
from recbole_siger.model.general_recommender.siger import SIGERParams

PROPERTIES = Path(__file__).parents[3] / "properties"


def rows(text: str) -> dict[str, list[str]]:
    """Read the cells of each row by its first one; a row that is wrapped goes on with an empty first cell."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("│┃").split("│")]
        if len(cells) > 2 and cells[0]:
            found.setdefault(cells[0], cells[1:])
    return found


@pytest.fixture(scope="module")
def siger() -> dict[str, list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        import io

        from rich.console import Console

        out = io.StringIO()
        patch.setattr("recbole_siger.cli.describe.open_console", lambda: Console(file=out, width=250))
        print_options("SIGER", "ml-100k")
        lines.append(out.getvalue())
    return rows("".join(lines))


@pytest.mark.parametrize("cls", [SIGERParams, RunParams])
def test_every_typed_option_is_listed_with_range_and_meaning(cls: type, siger: dict[str, list[str]]) -> None:
    config = Config("SIGER", "ml-100k")
    ranges = {option.name: option.range for option in config.options()}
    for field in fields(cls):
        default, _, interval, meaning = siger[field.name]
        assert default == str(config[field.name])
        assert interval == ranges[field.name]
        if field.name not in (
            "seed",
            "train_batch_size",
            "learning_rate",
        ):  # RecBole's own comments are terse
            assert len(meaning.split()) >= 3


@pytest.mark.parametrize("file", ["overall.yaml", "model/SIGER.yaml"])
def test_every_key_of_our_files_is_listed(file: str, siger: dict[str, list[str]]) -> None:
    keys = yaml.safe_load((PROPERTIES / file).read_text()).keys()
    assert keys <= siger.keys()


def test_an_option_of_recbole_is_listed_too(siger: dict[str, list[str]]) -> None:
    assert siger["eval_step"][0] == "1"
    assert siger["USER_ID_FIELD"][0] == "user_id"


def test_a_model_of_recbole(capsys: pytest.CaptureFixture[str]) -> None:
    print_options("LightGCN", "ml-100k")
    listed = rows(capsys.readouterr().out)
    assert listed["n_layers"][0] == "2"
    assert "co_weight" not in listed


def test_effective_values_name_their_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "m.yaml"
    file.write_text("co_weight: 0.25\n")
    default = str(Config("SIGER", "ml-100k")["co_weight"])
    assert default != "0.25"
    print_effective("SIGER", "ml-100k", [str(file)], {"seed": "9"})
    out = capsys.readouterr().out
    listed = rows(out)
    changed, rest = (rows(part) for part in out.split("SIGER on ml-100k: defaults"))
    assert {"seed", "co_weight", "prepare"} <= changed.keys()
    assert {"epochs", "noise_eps", "train_batch_size"} <= rest.keys()
    assert not changed.keys() & rest.keys()
    assert changed.keys() | rest.keys() == Config("SIGER", "ml-100k").origin.keys()
    assert listed["seed"] == ["9", "2020", "command line"]
    assert listed["co_weight"][:2] == ["0.25", default]
    assert listed["epochs"] == ["1000", "properties/overall.yaml"]
    assert listed["noise_eps"] == ["0.05", "properties/model/SIGER.yaml"]
    assert listed["prepare"] == ["ml_100k", "None", "properties/dataset/ml-100k.yaml"]
    assert listed["train_batch_size"] == ["2048", "recbole/properties/overall.yaml"]
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_is_printed_as_its_option_takes_it(
    siger: dict[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """RecBole adds the dataset's name to `data_path`, and replaces it for ml-100k."""
    assert siger["data_path"][0] == "dataset"
    print_effective("SIGER", "shop", [], {"data_path": str(tmp_path.parent)})
    assert "shop" not in (line := next(s for s in capsys.readouterr().out.splitlines() if "data_path" in s))
    assert "command line" in line
    print_effective("SIGER", "ml-100k", [], {})
    assert rows(capsys.readouterr().out)["data_path"][0] == "dataset"


def test_a_wrong_value_is_an_error_here_as_well() -> None:
    with pytest.raises(UserError, match="command line: co_weight=2: "):
        print_effective("SIGER", "ml-100k", [], {"co_weight": "2"})


def test_meanings_are_read_from_comments(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        "# (int) no option\n"
        "a: 1   # (int) The first (of two).\n"
        "b: '#'    # (str) Has a sign.  \n"
        "c: ~\n"
        "  nested: 1  # (int) inside\n"
        "d:    # note without a type\n"
    )
    assert read_meanings(file) == {
        "a": ("int", "The first (of two)."),
        "b": ("str", "Has a sign."),
        "c": ("", ""),
        "d": ("", ""),
    }
