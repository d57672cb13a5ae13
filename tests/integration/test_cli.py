"""The commands as a user types them, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_siger.registry import model_names

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "run_recbole_siger.py"

pytestmark = pytest.mark.xdist_group("cli")

FEATURE_FILES = [
    "ml-100k.genre.ids",
    "ml-100k.genre.npy",
    "ml-100k.manifest.json",
    "ml-100k.text.ids",
    "ml-100k.text.npy",
]


def call(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
    )


def siger(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return call(folder, "-m", "recbole_siger.cli", *arguments)


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    return done.stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The README's first command, from an empty folder."""
    folder = tmp_path_factory.mktemp("empty")
    done = call(
        folder, SCRIPT, "--model=SIGER", "--dataset=ml-100k", "--epochs=1", "--metric_decimal_place=16"
    )
    assert done.returncode == 0, done.stderr
    return folder, done


def run_dir(folder: Path) -> Path:
    (found,) = (folder / "runs" / "ml-100k").iterdir()
    return found


def test_a_run_leaves_its_folder_and_the_features_and_nothing_else(
    first_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = first_run
    assert sorted(path.name for path in folder.iterdir()) == ["dataset", "runs"]
    assert [path.name for path in (folder / "dataset").iterdir()] == ["ml-100k"]
    assert sorted(path.name for path in (folder / "dataset" / "ml-100k").iterdir()) == FEATURE_FILES
    assert run_dir(folder).name.startswith("SIGER-")
    assert sorted(path.name for path in run_dir(folder).iterdir()) == [
        "config.yaml",
        "digests.json",
        "ids",
        "metrics.jsonl",
        "model.safetensors",
        "results.json",
        "run.log",
        "users.csv",
    ]
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"run folder: {run_dir(folder).relative_to(folder)}"
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert epochs[0].startswith("epoch    0  recall@20 0.")
    assert max(map(len, epochs)) <= 100
    assert "DEBUG epoch    0  bpr " in (run_dir(folder) / "run.log").read_text()
    results = json.loads((run_dir(folder) / "results.json").read_text())
    assert results["test"]["recall@20"] > 0.05  # by chance some 20 / 1682


def test_evaluate_prints_the_same_to_the_last_digit(
    first_run: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = first_run
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    done = siger(folder, "evaluate", run_dir(folder).relative_to(folder))
    assert done.returncode == 0, done.stderr
    test = json.loads((run_dir(folder) / "results.json").read_text())["test"]
    assert done.stdout.splitlines()[-1] == "test   " + "  ".join(
        f"{key} {value!r}" for key, value in test.items()
    )
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_damaged_model_is_one_line(
    first_run: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    folder, _ = first_run
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in run_dir(folder).iterdir():
        if path.is_file():
            (broken / path.name).write_bytes(path.read_bytes())
    (broken / "ids").mkdir()
    for path in (run_dir(folder) / "ids").iterdir():
        (broken / "ids" / path.name).write_bytes(path.read_bytes())
    model = broken / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    done = siger(folder, "evaluate", broken)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {model}: damaged or not a safetensors file")
    assert done.stderr.count("\n") == 1


def test_an_unknown_key_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = call(tmp_path, SCRIPT, "--model=SIGER", "--dataset=ml-100k", "--epoch=1")
    assert one_line(done) == "command line: unknown key `epoch`; did you mean `epochs`?"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_sources_and_writes_nothing(tmp_path: Path) -> None:
    done = siger(tmp_path, "run", "--model", "SIGER", "--dataset=ml-100k", "--co_weight=0.125", "--dry_run")
    assert (done.returncode, done.stderr) == (0, "")
    for key, value, source in (
        ("co_weight", "0.125", "command line"),
        ("noise_eps", "0.05", "properties/model/SIGER.yaml"),
        ("checkpoint_interval", "60.0", "properties/overall.yaml"),
        ("train_batch_size", "2048", "recbole/properties/overall.yaml"),
    ):
        (line,) = [
            line
            for line in done.stdout.splitlines()
            if line.split("│")[1:2] and line.split("│")[1].strip() == key
        ]
        assert [cell.strip() for cell in line.split("│")[2:4]] == [value, source]
    assert list(tmp_path.iterdir()) == []


def test_config_models_and_doctor_write_nothing(tmp_path: Path) -> None:
    code = (
        "from recbole_siger.cli import main; import sys\n"
        "codes = []\n"
        "for words in (['config', 'SIGER'], ['models'], ['doctor']):\n"
        "    print('==', words[0]); codes.append(main(words))\n"
        "sys.exit(codes != [0, 0, 0])"
    )
    done = call(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    _, config, models, doctor = done.stdout.split("== ")
    for line in (ROOT / "properties" / "model" / "SIGER.yaml").read_text().splitlines():
        if line and not line.startswith("#"):
            assert f" {line.split(':')[0]} " in config
    assert [line.split()[0] for line in models.splitlines()[1:]] == model_names()
    assert "recbole-siger" in doctor
    assert list(tmp_path.iterdir()) == []
