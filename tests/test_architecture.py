"""The rules of the house that a reader would otherwise have to trust."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import rooms

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "recbole_siger"
SOURCES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "dataset_scripts").rglob("*.py")])
NAMES = [path.relative_to(ROOT).as_posix() for path in SOURCES]

# Arrays and tensors in, tensors out; a folder stands for all its files.
PURE = [
    "options",
    "common",
    "parallel",
    "evaluation",
    "graph",
    "data/features.py",
    "model/inputs.py",
    "model/layers.py",
    "model/loss.py",
    "model/memory.py",
    "model/batch.py",
    "model/propagation.py",
    "model/diffusion.py",
    "extract",
]
# Modules that load a slow or optional package, imported where they are needed: numba, Ray, Optuna, RecBole.
LATE = {"graph.compiled", "tuning.watch", "tuning.bayes", "profiles.history"}
MODEL_FILES = [name for name in NAMES if "/model/" in name and "_recommender/" in name]


@cache
def modules_of(name: str) -> set[str]:
    """Name every module that a file imports, anywhere in it, relative imports resolved."""
    parts, found = name.removesuffix(".py").split("/"), set()
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*parts[: -node.level], *([node.module] if node.module else [])])
            base = base if node.level else str(node.module)
            found |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("module", sorted(rooms.modules(ROOT)))
def test_a_module_imports_only_from_rooms_above_its_own(module: str) -> None:
    known = rooms.modules(ROOT)
    place = rooms.ROOMS.index(rooms.room_of(module))
    allowed = {*rooms.ROOMS[: place + 1]}
    found = {to for to, _, _ in rooms.imports(known[module], known)}
    assert not {to for to in found if rooms.room_of(to) not in allowed}


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert rooms.circles(rooms.module_arrows(ROOT)) == []
    assert rooms.circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


def test_the_architecture_page_shows_every_room() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    picture = page.split("```mermaid\n")[1].split("```")[0]
    rows = re.findall(r"^\| `(\w+)/?` \|", page.split("\n## The rooms\n")[1].split("\n## ")[0], flags=re.M)
    there = [room for room in rooms.ROOMS if room in rooms.room_arrows(ROOT)]
    assert rows == there
    assert set(there) <= set(re.findall(r"[a-z_]+", picture))


@pytest.mark.parametrize("module", [name for name in rooms.modules(ROOT) if rooms.room_of(name) != "cli"])
def test_imports_of_ours_stand_at_the_top(module: str) -> None:
    """Only the commands import late, for a fast start, and what loads a slow or optional package is."""
    known = rooms.modules(ROOT)
    assert {to for to, _, inside in rooms.imports(known[module], known) if inside} <= LATE


def within(modules: set[str], package: str) -> set[str]:
    return {module for module in modules if module == package or module.startswith(f"{package}.")}


@cache
def file_of(module: str) -> str | None:
    """Return the file of a module of ours; None for any other, or a name within a module."""
    path = ROOT / module.replace(".", "/")
    found = next((p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file()), None)
    return found.relative_to(ROOT).as_posix() if found else None


def reached(name: str) -> Iterator[str]:
    """Yield a file and every file of ours that it imports, directly or through others."""
    seen, todo = set(), [name]
    while todo:
        current = todo.pop()
        if current not in seen:
            seen.add(current)
            yield current
            todo += filter(None, map(file_of, within(modules_of(current), "recbole_siger")))


def pure_files() -> list[str]:
    chosen = [name for name in NAMES for room in PURE if name.startswith(f"recbole_siger/{room}")]
    assert len(chosen) > len(PURE)
    return chosen


@pytest.mark.parametrize("name", pure_files())
def test_pure_rooms_never_reach_recbole(name: str) -> None:
    assert not {file: found for file in reached(name) if (found := within(modules_of(file), "recbole"))}


def test_reaching_is_noticed() -> None:
    """The test above would fail for a file that imports RecBole through others of ours."""
    files = list(reached("recbole_siger/data/loaders.py"))
    assert "recbole_siger/config.py" in files
    assert within(modules_of("recbole_siger/config.py"), "recbole")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_imports_recbole_quick_start(name: str) -> None:
    assert not within(modules_of(name), "recbole.quick_start")


def loaded_by(code: str) -> set[str]:
    """Run ``code`` in a fresh Python and return the packages that it brought in, by their first name."""
    code = f"import sys\n{code}\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not loaded_by("import recbole_siger") & {"ray", "recbole", "torch", "pandas", "scipy"}


def test_a_run_never_imports_ray() -> None:
    code = """
import recbole_siger.quick_start, recbole_siger.training.trainer
from recbole_siger.registry import MODELS, get_model_class
for name in [*MODELS, "LightGCN"]:
    get_model_class(name)
"""
    loaded = loaded_by(code)
    assert "recbole" in loaded
    assert "ray" not in loaded


def test_extraction_imports_neither_ray_nor_an_extra() -> None:
    loaded = loaded_by("import recbole_siger.extract.run, recbole_siger.extract.ray_engine")
    heavy = {"ray", "recbole", "sklearn", "PIL", "timm", "open_clip", "sentence_transformers", "transformers"}
    assert not loaded & heavy
    code = "import recbole_siger.profiles.run"
    assert not loaded_by(code) & {"ray", "recbole", "transformers"}


def test_tables_need_no_matplotlib_until_a_picture_is_asked_for() -> None:
    code = "import recbole_siger.cli, recbole_siger.studies.ablate, recbole_siger.report.page"
    assert "matplotlib" not in loaded_by(f"{code}\nimport recbole_siger.report.overlap")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_read_in_one_sitting(name: str) -> None:
    n_lines = len((ROOT / name).read_text(encoding="utf-8").splitlines())
    assert n_lines <= (250 if name in MODEL_FILES else 400)


def test_the_model_files_are_found() -> None:
    assert "recbole_siger/model/general_recommender/siger.py" in MODEL_FILES


def unsafe(tree: ast.AST) -> Iterator[str]:
    """Yield what runs code out of a file or a string."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (
                n for n in names if n.split(".")[0] in ("pickle", "cPickle", "dill", "joblib", "shelve")
            )
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in ("eval", "exec", "torch.load", "yaml.unsafe_load", "pd.read_pickle"):
                yield called
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if given.get("allow_pickle", "False") != "False":
                yield f"{called}(allow_pickle={given['allow_pickle']})"
            if called.endswith(".load_checkpoint") and given.get("weights_only") != "True":
                yield f"{called} without weights_only=True"


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_code_from_data(name: str) -> None:
    assert not list(unsafe(ast.parse((ROOT / name).read_text(encoding="utf-8"))))


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import load",
        "eval('1')",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "timm.models.load_checkpoint(model, path)",
    ],
)
def test_unsafe_code_is_noticed(code: str) -> None:
    assert list(unsafe(ast.parse(code)))
