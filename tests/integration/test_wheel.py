"""The wheel has all that a run needs: no file of the repository is read."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SHIPPED = (".yaml", ".py", ".txt")

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


def call(folder: Path, *command: str | Path) -> str:
    environment = {
        key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")
    }
    done = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of a fresh environment with the wheel, and this interpreter's packages as dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    call(folder, sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", folder / "dist", ROOT)
    (wheel,) = (folder / "dist").glob("*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    (purelib,) = (folder / "env").glob("lib/python*/site-packages")
    call(folder, sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    # Paths from a .pth file come last, and the .pth files within them (an editable install's) are not read.
    dependencies = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    (purelib / "dependencies.pth").write_text("\n".join(dependencies) + "\n")
    return python.parent


def test_the_package_is_the_wheels(installed: Path, tmp_path: Path) -> None:
    code = (
        "import recbole_siger as p, recbole_siger.options.resources as r\n"
        "print(p.__file__)\n"
        "print(r.find_resource('properties/overall.yaml'))\n"
        "print(r.find_resource('dataset_scripts/ml_100k.py'))"
    )
    found = [Path(line) for line in call(tmp_path, installed / "python", "-c", code).splitlines()]
    (site,) = (installed.parent / "lib").glob("python*/site-packages")
    package = site.resolve() / "recbole_siger"
    assert [path.resolve() for path in found] == [
        package / "__init__.py",
        package / "properties" / "overall.yaml",
        package / "dataset_scripts" / "ml_100k.py",
    ]


def test_every_shipped_file_is_in_the_wheel(installed: Path) -> None:
    (site,) = (installed.parent / "lib").glob("python*/site-packages")
    for folder in ("properties", "dataset_scripts"):
        expected = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.suffix in SHIPPED}
        assert expected
        assert expected == {
            path.relative_to(site / "recbole_siger")
            for path in (site / "recbole_siger" / folder).rglob("*")
            if path.suffix in SHIPPED
        }
    assert (site / "recbole_siger" / "py.typed").is_file()
    assert (site / "recbole_siger" / "serve" / "page.html").is_file()
    assert not (site / "tests").exists()


def test_a_run_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    printed = call(
        tmp_path, installed / "recbole-siger", "run", "--model=SIGER", "--dataset=ml-100k", "--epochs=1"
    )
    assert "making item features of ml-100k in dataset/ml-100k" in printed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "runs"]
    (run,) = (tmp_path / "runs" / "ml-100k").iterdir()
    assert (run / "results.json").is_file()
    shown = call(tmp_path, installed / "recbole-siger", "evaluate", run)
    assert shown.splitlines()[-1] in (line for line in printed.splitlines() if line.startswith("test "))
