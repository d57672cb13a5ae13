"""Commands as a user types them, in fresh processes; those that need no process of their own share one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
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
        timeout=600,
    )


# Run commands, each in its folder; print exit code, stdout and stderr of each as JSON.
SEVERAL = """
import contextlib, io, json, os, sys
from recbole_siger.cli import main
done = {}
for name, (folder, words) in json.loads(sys.argv[1]).items():
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(words)
    done[name] = [words, code, out.getvalue(), err.getvalue()]
print(json.dumps(done))
"""

Results = dict[str, subprocess.CompletedProcess[str]]


def call_several(folder: Path, commands: dict[str, tuple[Path, list[str]]]) -> Results:
    """Run commands ``{name: (working folder, words)}`` in one fresh process."""
    words = json.dumps({name: (str(place), words) for name, (place, words) in commands.items()})
    done = call(folder, "-c", SEVERAL, words)
    assert (done.returncode, done.stderr) == (0, "")
    return {name: subprocess.CompletedProcess(*one) for name, one in json.loads(done.stdout).items()}


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
        "embeddings.safetensors",
        "features.safetensors",
        "graphs.safetensors",
        "ids",
        "metrics.jsonl",
        "model.safetensors",
        "results.json",
        "run.log",
        "seen.safetensors",
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


def damaged_copy(run: Path, folder: Path) -> Path:
    """Copy a run folder; the model file of the copy lacks its end."""
    broken = shutil.copytree(run, folder / "broken")
    model = broken / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    return broken


def bytes_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@dataclass(frozen=True)
class Later:
    """What commands did after the first run."""

    results: Results
    unchanged: bool
    broken: Path
    empty: Path


@pytest.fixture(scope="module")
def later(
    first_run: tuple[Path, subprocess.CompletedProcess[str]], tmp_path_factory: pytest.TempPathFactory
) -> Later:
    """Evaluate the first run in a fresh process, then run other commands there, in an empty folder."""
    folder, _ = first_run
    empty = tmp_path_factory.mktemp("empty")
    broken = damaged_copy(run_dir(folder), tmp_path_factory.mktemp("damaged"))
    before = bytes_of(folder)
    dry_run = ["run", "--model", "SIGER", "--dataset=ml-100k"]
    commands = {
        "evaluate": (folder, ["evaluate", str(run_dir(folder).relative_to(folder))]),
        "damaged": (folder, ["evaluate", str(broken)]),
        "dry run": (empty, [*dry_run, "--co_weight=0.125", "--dry_run"]),
        "config": (empty, ["config", "SIGER"]),
        "models": (empty, ["models"]),
        "doctor": (empty, ["doctor"]),
    }
    results = call_several(empty, commands)
    return Later(results, bytes_of(folder) == before, broken, empty)


def test_evaluate_prints_the_same_to_the_last_digit(
    first_run: tuple[Path, subprocess.CompletedProcess[str]], later: Later
) -> None:
    done = later.results["evaluate"]
    assert done.returncode == 0, done.stderr
    test = json.loads((run_dir(first_run[0]) / "results.json").read_text())["test"]
    assert done.stdout.splitlines()[-1] == "test   " + "  ".join(
        f"{key} {value!r}" for key, value in test.items()
    )
    assert later.unchanged


def test_a_damaged_model_is_one_line(later: Later) -> None:
    done = later.results["damaged"]
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"error: {later.broken / 'model.safetensors'}: damaged or not a safetensors file"
    )
    assert done.stderr.count("\n") == 1


def test_an_unknown_key_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = call(tmp_path, SCRIPT, "--model=SIGER", "--dataset=ml-100k", "--epoch=1")
    assert one_line(done) == "command line: unknown key `epoch`; did you mean `epochs`?"
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_shows_sources_and_writes_nothing(later: Later) -> None:
    done = later.results["dry run"]
    assert (done.returncode, done.stderr) == (0, "")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines()]
    for row in (
        ["co_weight", "0.125", "0.3", "command line"],  # a changed key, with its default
        ["noise_eps", "0.05", "properties/model/SIGER.yaml"],
        ["checkpoint_interval", "60.0", "properties/overall.yaml"],
        ["train_batch_size", "2048", "recbole/properties/overall.yaml"],
    ):
        assert [found for found in rows if found[:1] == row[:1]] == [row]
    assert list(later.empty.iterdir()) == []


def test_config_models_and_doctor_write_nothing(later: Later) -> None:
    config, models, doctor = (later.results[name] for name in ("config", "models", "doctor"))
    for done in (config, models, doctor):
        assert (done.returncode, done.stderr) == (0, "")
    for line in (ROOT / "properties" / "model" / "SIGER.yaml").read_text().splitlines():
        if line and not line.startswith("#"):
            assert f" {line.split(':')[0]} " in config.stdout
    assert [line.split()[0] for line in models.stdout.splitlines()] == model_names()
    assert "recbole-siger" in doctor.stdout
    assert list(later.empty.iterdir()) == []


# Run one command; print its exit code, the CPU seconds of the process, and the heavy packages it imported.
QUICK = """
import contextlib, io, json, sys, time
from recbole_siger.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    code = main(sys.argv[1:])
heavy = {"torch", "recbole", "numpy", "pandas", "scipy", "sklearn", "ray"} & {*sys.modules}
print(json.dumps([code, time.process_time(), sorted(heavy)]))
"""


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["run", "--help"], 0),
        (["run", "--model=SIGER", "--help"], 0),
        (["compare", "--help"], 0),
        (["run", "--model=SIGR", "--dataset=ml-100k"], 2),
        (["run", "--model=SIGER", "--dataset=ml-100k", "--co_wieght=1"], 2),
        (["compare", "--models=SIGER,LightGCN", "--dataset=ml-100k", "--epoch=1"], 2),
    ],
)
def test_help_and_typing_errors_are_answered_at_once(words: list[str], code: int, tmp_path: Path) -> None:
    done = call(tmp_path, "-c", QUICK, *words)
    assert done.returncode == 0, done.stderr
    found, seconds, heavy = json.loads(done.stdout)
    assert (found, heavy) == (code, [])
    assert seconds < 1


def test_the_package_can_be_run(tmp_path: Path) -> None:
    for module in ("recbole_siger", "recbole_siger.cli"):
        done = call(tmp_path, "-m", module, "--version")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("recbole-siger ")
