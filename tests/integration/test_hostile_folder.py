"""A run folder of another person is data: nothing executes, nothing is written elsewhere, text is text."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from recbole_siger import cli
from recbole_siger.quick_start import run_experiment
from recbole_siger.runs.folder import CHECKPOINT
from tests.toy import N_ITEMS, QUIET, write_toy

# Escapes that colour, retitle and clear a terminal, markup of rich, HTML, a formula of LaTeX and of a sheet.
EVIL = (
    "\x1b[31mred\x1b]0;title\x07\x9b2J[bold]b[/bold][/x][link=file:///]\r<script>alert(1)</script>"
    "<img src=x onerror=alert(1)>$\\bad{$ {0} %s =cmd|'/c'!A1"
)
LINE = EVIL.replace("\r", "")  # in files of one id a line
COMMANDS = {
    "evaluate": ["evaluate", "run"],
    "audit": ["audit", "--run=run"],
    "resume": ["resume", "run"],
    "report": ["report", "run", "--out=page.html"],
    "curves": ["report", "curves", "run", "--out=curves.svg"],
    "compare": ["compare", "--runs", "run", "other", "--out=table.md"],
    "recommend": ["recommend", "run", "--users=all", "--k=3"],
    "similar": ["similar", "run", "--items=i7", "--k=30"],
    "new-items": ["new-items", "run", "--features=image=new.image.npy,text=new.text.npy"],
    "export": ["export", "run", "--out=vectors"],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs with titles of the items, and the dataset."""
    root = tmp_path_factory.mktemp("made")
    data = write_toy(root / "data")
    (data / "items.tsv").write_text(
        "item_id\ttitle\n" + "".join(f"i{i}\tTitle {i}\n" for i in range(N_ITEMS))
    )
    small = {"train_batch_size": 64, "embedding_size": 8, "topk": [3, 5], "valid_metric": "Recall@5"}
    for name, weight in (("run", 0.3), ("other", 0.6)):
        values = {**QUIET, **small, "epochs": 2, "n_semantic_neighbors": 3, "co_weight": weight}
        places = {"data_path": str(root / "data"), "run_dir": str(root / name)}
        run_experiment("SIGER", "toy", config_dict={**values, **places})
    return root


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with copies of the runs, new items, and a file of the user beside it."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("run", "other"):
        shutil.copytree(made / name, work / name)
    for name, width in (("image", 5), ("text", 11)):
        np.save(f"new.{name}.npy", np.random.default_rng(3).normal(size=(2, width)))
        Path(f"new.{name}.ids").write_text(f"new1\nnew2{LINE}\n")
    (tmp_path / "precious.txt").write_text("mine")
    return work


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def change(file: str, **changes: Any) -> None:
    """Change keys of a JSON or YAML file of the run."""
    path = Path("run", file)
    load, dump = (yaml.safe_load, yaml.safe_dump) if path.suffix == ".yaml" else (json.loads, json.dumps)
    path.write_text(dump({**load(path.read_text()), **changes}))


def unfinished() -> None:
    """Make the run one that `resume` accepts."""
    Path("run/results.json").unlink()


def call(command: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run a command; check what holds for each of them."""
    capsys.readouterr()
    code = cli.main(COMMANDS[command])
    out, error = capsys.readouterr()
    assert code in (0, 1, 2), error
    assert "Traceback" not in error
    assert "unexpected" not in error
    assert all(letter.isprintable() or letter == "\n" for letter in out + error)
    if code == 2:
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    return code, out, error


# ---- text


def plant_texts() -> None:
    """Put the text where a name, an id or a title can be."""
    names = dict.fromkeys(("dataset", "protocol", "protocol_id", "candidates"), EVIL)
    change("results.json", model=f"SIGER{EVIL}", **names)
    results = json.loads(Path("run/results.json").read_text())
    results["versions"][EVIL] = EVIL
    for part in ("valid", "test"):
        results[part][f"recall{EVIL}@5"] = 0.5
    Path("run/results.json").write_text(json.dumps(results))
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["loss"][EVIL] = 0.25
    Path("run/metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in ("users", "items"):
        file = Path(f"run/ids/{name}.txt")
        lines = file.read_text().split("\n")
        lines[3] = LINE
        file.write_text("\n".join(lines))
    titles = Path("run/items.tsv")
    titles.write_text(titles.read_text().replace("Title", LINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_texts_of_a_run_folder_are_printed_literally(
    command: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_texts()
    if command == "resume":
        unfinished()
    before = contents(tmp_path)
    _, out, _ = call(command, capsys)
    made = {name for name in contents(tmp_path) if name not in before}
    assert all(name.startswith("work/") for name in made)
    if command in ("recommend", "similar", "new-items"):
        assert "[bold]" in out.replace("\n", "")  # as it is, not bold
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("command", ["report", "compare", "audit"])
def test_texts_of_a_configuration_are_printed_literally(
    command: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change("config.yaml", dataset=EVIL, valid_metric=EVIL, model=EVIL, seed=EVIL, **{EVIL: EVIL})
    call(command, capsys)


def test_nothing_is_interpreted_on_a_terminal_that_shows_markup(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The colours and styles of a terminal are those of the program alone."""
    plant_texts()
    monkeypatch.setattr(
        "recbole_siger.cli.using.open_console", lambda: Console(force_terminal=True, color_system="truecolor")
    )
    assert cli.main(COMMANDS["similar"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[31m" not in out
    assert "\x1b]" not in out
    assert "\x07" not in out


class Page(html.parser.HTMLParser):
    """What a browser would see: tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_the_page_has_no_tag_of_a_run_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plant_texts()
    change("config.yaml", note=EVIL)
    assert call("report", capsys)[0] == 0
    text = Path("page.html").read_text()
    page = Page()
    page.feed(text)
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object", "a")]
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert sources
    assert all(str(source).startswith("data:image/svg+xml;base64,") for source in sources)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text


def test_a_table_has_no_markup_of_a_run_folder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("run", "other"):
        file = Path(name, "results.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), "protocol": f"a|b{EVIL}"}))
    change("config.yaml", co_weight=f"[link](javascript:x) | `x` \\| {EVIL}")
    assert call("compare", capsys)[0] == 0
    table = Path("table.md").read_text()
    assert not re.findall(r"(?<!\\)<(?!u>|/u>|0\.)", table)  # tags of the program alone
    assert "](" not in table
    columns = {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in table.splitlines() if line[:1] == "|"}
    assert columns == {10, 8}  # of the table and of the tests


# ---- paths


PATHS = {
    "run_dir": "OUT/run",
    "cache_dir": "OUT/cache",
    "checkpoint_dir": "OUT/saved",
    "prepare": "../OUT/script",
    "log_wandb": True,
    "wandb_project": "OUT",
}
ELSEWHERE = [
    {"dataset": "../../OUT"},
    {"dataset": "ROOT/OUT"},
    {"data_path": "ROOT/OUT"},
    {"features": {"image": "ROOT/OUT/x.npy", "text": "../../OUT/x.npy"}},
    {"benchmark_filename": ["../../OUT/train", "../../OUT/valid", "ROOT/OUT/test"]},
    {"save_dataset": True, "dataset_save_path": "ROOT/OUT/d.pth"},
    {"save_dataloaders": True, "dataloaders_save_path": "ROOT/OUT/l.pth"},
    {"run_dir": "/", "cache_dir": "/"},
    {"model": "os:system"},
    {"model": "../../OUT/model.py:Model"},
    {"nproc": "__import__('os').system('touch OUT')"},
    {"topk": "!!python/object/apply:os.system ['touch OUT']"},
]


def placed(value: Any, root: Path) -> Any:
    """Put the test's folder into a value."""
    return json.loads(json.dumps(value).replace("ROOT", str(root)))


@pytest.mark.parametrize("changes", [PATHS, *ELSEWHERE], ids=lambda one: next(iter(one)))
@pytest.mark.parametrize(
    "command",
    [
        "evaluate",
        "resume",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("audit", "report", "new-items")),
    ],
)
def test_a_configuration_writes_nowhere_else(
    command: str, changes: dict[str, Any], here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change("config.yaml", **placed(changes, tmp_path))
    if command == "resume":
        unfinished()
    before = {**contents(tmp_path), "cwd": b""}
    code, _, error = call(command, capsys)
    after = contents(tmp_path)
    written = {name for name in after if after[name] != before.get(name)}
    assert all(name.startswith("work/run/") or name == "work/page.html" for name in written), error
    if command in ("evaluate", "audit", "new-items"):
        assert not written
    if changes is PATHS:
        assert code == 0, error


def test_new_items_name_a_key_that_is_missing_or_wrong(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path("run/config.yaml")
    values = yaml.safe_load(file.read_text())
    for key, value, said in (
        ("seed", None, "seed is missing"),
        ("seed", "x", "seed='x': expected"),
        ("missing_modality", None, "missing_modality is missing"),
        ("missing_modality", "abc", "missing_modality='abc': expected one of"),
    ):
        kept = {name: old for name, old in values.items() if name != key}
        file.write_text(yaml.safe_dump(kept if value is None else {**kept, key: value}))
        code, _, error = call("new-items", capsys)
        assert (code, f"config.yaml: {said}" in error) == (2, True), error


LINKED = [
    "results.json",
    "metrics.jsonl",
    "run.log",
    ".lock",
    CHECKPOINT,
    "model.safetensors",
    "ids/users.txt",
]


@pytest.mark.parametrize("name", LINKED)
def test_resume_does_not_write_through_a_link(
    name: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unfinished()
    Path("run", name).unlink(missing_ok=True)
    Path("run", name).symlink_to(tmp_path / "precious.txt")
    code, _, error = call("resume", capsys)
    assert code == 2
    refused = "cannot be locked: " if name == ".lock" else "is a symbolic link"
    assert f"run/{name}: {refused}" in error
    assert (tmp_path / "precious.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["page.html", "curves.svg", "table.md", "list.csv", ".list.csv.shards"])
def test_a_file_that_is_written_replaces_a_link(
    name: str, here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link at the place of an output is not followed."""
    target = tmp_path / ("precious.txt" if "shards" not in name else "folder")
    if "shards" in name:
        target.mkdir()
        (target / "mine.txt").write_text("mine")
    Path(name).symlink_to(target)
    command = {"page.html": "report", "curves.svg": "curves", "table.md": "compare"}.get(name, "recommend")
    if command == "recommend":
        monkeypatch.setitem(COMMANDS, command, [*COMMANDS[command], "--out=list.csv"])
    call(command, capsys)
    assert (tmp_path / "precious.txt").read_text() == "mine"
    if "shards" in name:
        assert [file.name for file in target.iterdir()] == ["mine.txt"]


def test_nothing_executes(here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files that Python or a shell would run, were they ever loaded."""
    marker = tmp_path / "ran"
    code = f"import pathlib\npathlib.Path({str(marker)!r}).touch()\n"
    for name in ("sitecustomize.py", "os.py", "SIGER.py", "ml_100k.py", "conftest.py", "recbole.py"):
        Path("run", name).write_text(code)
    pickled = b"cposix\nsystem\n(S'touch %b'\ntR." % os.fsencode(marker)
    for name in ("model.pth", "checkpoint.pth", "item_emb.npy", "toy-dataset.pth"):
        Path("run", name).write_bytes(pickled)
    change("config.yaml", model="SIGER", pretrain_path="run/model.pth", pre_model_path="run/model.pth")
    for command in COMMANDS:
        if command == "resume":
            unfinished()
        call(command, capsys)
        if command == "resume" and not Path("run/results.json").exists():
            shutil.copy("other/results.json", "run/results.json")
    Path("run/model.safetensors").write_bytes(pickled)
    Path("run/embeddings.safetensors").write_bytes(pickled)
    for command in ("evaluate", "audit", "recommend", "export"):
        assert call(command, capsys)[0] == 2
    assert not marker.exists()
