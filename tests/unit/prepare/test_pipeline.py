"""From source to folder: whole or not at all, the same bytes each time, and a dataset that trains."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.raw import WRITERS, Shape, write_csv
from recbole_siger import cli
from recbole_siger.common.files import sha256
from recbole_siger.config import Config
from recbole_siger.data.dataset import MultimodalDataset
from recbole_siger.errors import UserError
from recbole_siger.prepare import folder as folder_module
from recbole_siger.prepare import pipeline
from tests.unit.prepare.conftest import Preparer, manifest

ROOT = Path(__file__).parents[3]
SHAPE = Shape(31, 17, 300)


def snapshot(folder: Path) -> dict[str, str]:
    return {str(path): sha256(path) if path.is_file() else "" for path in sorted(folder.rglob("*"))}


def command(name: str, raw: Path) -> list[str]:
    kind, _, edition = name.partition(" ")
    if kind == "csv":
        return ["prepare", kind, f"--inter={raw / 'my.csv'}", f"--items={raw / 'items.csv'}", "--name=toy"]
    given = [f"--edition={edition}", "--category=Sports_and_Outdoors"] if edition else []
    return ["prepare", kind, f"--source={raw}", "--name=toy", *given]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Every kind, prepared by two processes with different hash seeds: one folder per process."""
    root = tmp_path_factory.mktemp("hash-seeds")
    for name, write in WRITERS.items():
        write(root / "raw" / name, SHAPE)
    code = (
        "import json, sys; from recbole_siger import cli\n"
        "sys.exit(max(map(cli.main, json.loads(sys.argv[1]))))"
    )
    for seed in ("1", "2"):
        commands = [
            [*command(name, root / "raw" / name), f"--data_path={root / seed / name}"] for name in WRITERS
        ]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, "-c", code, json.dumps(commands)],
            env=environment,
            check=True,
            capture_output=True,
        )
    return [root / "1", root / "2"]


@pytest.mark.xdist_group("hash seeds")
@pytest.mark.parametrize("name", WRITERS)
def test_the_same_bytes_whatever_the_hash_seed(prepared: list[Path], name: str) -> None:
    folders = [root / name / "toy" for root in prepared]
    files = [sorted(path.relative_to(folder) for path in folder.rglob("*")) for folder in folders]
    assert files[0] == files[1]
    assert {"manifest.json", "rejected.csv", "toy.yaml", "items.tsv", "toy.item"} <= set(map(str, files[0]))
    for file in files[0]:
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


def test_another_seed_is_another_split_of_the_same_rows(run: Preparer, tmp_path: Path) -> None:
    write_csv(tmp_path, SHAPE)
    one = run("csv", inter=tmp_path / "my.csv", seed=1)
    other = run("csv", inter=tmp_path / "my.csv", seed=2, name="other")
    assert manifest(one)["counts"] == manifest(other)["counts"]
    assert (one / "toy.test.inter").read_bytes() != (other / "other.test.inter").read_bytes()
    assert manifest(one)["split"] == {"kind": "random", "ratios": [8, 1, 1], "seed": 1}
    told = manifest(run("csv", inter=tmp_path / "my.csv", split="leave_one_out", name="last"))
    assert told["split"] == {"kind": "leave_one_out"}


def test_counts_and_inputs_of_the_manifest(run: Preparer, tmp_path: Path) -> None:
    lines = [f"u{u},i{i}" for u in range(7) for i in range(5)] + ["u9,i0", "u0,i0", "u0,", "x,y,z"]
    (tmp_path / "my.csv").write_text("\n".join(["user_id,item_id", *lines]) + "\n")
    folder = run("csv", inter=tmp_path / "my.csv", k_core=5)
    told = manifest(folder)
    assert told["counts_before"] == {"users": 8, "items": 5, "interactions": 37}
    assert told["filters"] == {"repeated_pairs": 1, "k_core": 5}
    assert told["counts"] == {
        "users": 7, "items": 5, "interactions": 35, "train": 21, "valid": 7, "test": 7
    }  # fmt: skip
    assert told["sparsity"] == 0.0
    assert told["rejected"] == 2
    path = tmp_path / "my.csv"
    assert told["inputs"] == {"my.csv": {"sha256": sha256(path), "bytes": path.stat().st_size}}
    assert str(tmp_path) not in (folder / "manifest.json").read_text()
    assert run.lines[:5] == [
        "reading my.csv",
        "read: 8 users, 5 items, 37 interactions",
        f"note: 2 broken records skipped; see {folder / 'rejected.csv'}",
        "note: 1 rows repeat a user-item pair; the earliest row of a pair is kept",
        "k_core=5: 8 -> 7 users, 5 -> 5 items, 36 -> 35 interactions",
    ]
    run("csv", inter=path, k_core=2, name="two")
    assert "k_core=2: 8 -> 7 users, 5 -> 5 items, 36 -> 35 interactions" in run.lines
    (tmp_path / "whole.csv").write_text("\n".join(["user_id,item_id", *lines[:-4]]) + "\n")
    run("csv", inter=tmp_path / "whole.csv", k_core=5, name="whole")
    assert "k_core=5: removed nothing" in run.lines
    run("csv", inter=path, k_core=0, name="zero")
    assert not any(line.startswith("k_core") for line in run.lines)


@pytest.mark.parametrize("function", ["write_interactions", "manifest_text"])
def test_nothing_is_left_when_writing_fails(
    run: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    write_csv(tmp_path, SHAPE)
    run("csv", inter=tmp_path / "my.csv")
    before = snapshot(run.data_path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pipeline, function, fail)
    for name in ("toy", "other"):
        with pytest.raises(OSError, match="disk full"):
            run("csv", inter=tmp_path / "my.csv", name=name, overwrite=True)
    assert snapshot(run.data_path) == before


def test_an_existing_folder_is_kept_unless_told_otherwise(run: Preparer, tmp_path: Path) -> None:
    write_csv(tmp_path, SHAPE)
    folder = run("csv", inter=tmp_path / "my.csv")
    (folder / "stray").touch()
    assert "exists already; choose another name, or replace it with --overwrite" in (
        run.refusal("csv", inter=tmp_path / "my.csv")
    )
    run("csv", inter=tmp_path / "my.csv", overwrite=True)
    assert not (folder / "stray").exists()


@pytest.mark.parametrize("name", ["thesis.tex", "photos/a.jpg", "other.inter", "toy.yaml"])
def test_a_folder_of_another_kind_is_never_replaced(run: Preparer, tmp_path: Path, name: str) -> None:
    write_csv(tmp_path, SHAPE)
    file = run.data_path / "toy" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    message = run.refusal("csv", inter=tmp_path / "my.csv", overwrite=True)
    assert "is not a dataset (no manifest, no .inter file), so --overwrite does not replace it" in message
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["manifest.json", "toy.inter", "toy.train.inter", ""])
def test_a_dataset_and_an_empty_folder_are_replaced(run: Preparer, tmp_path: Path, name: str) -> None:
    write_csv(tmp_path, SHAPE)
    (run.data_path / "toy").mkdir(parents=True)
    if name:
        (run.data_path / "toy" / name).touch()
    folder = run("csv", inter=tmp_path / "my.csv", overwrite=True)
    assert (folder / "toy.train.inter").stat().st_size > 0


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("toy.text.missing.csv", "toy.text.*"),
        (".toy.image.shards", ".toy.image.*"),
        ("toy.item_profile.answers.jsonl", "toy.item_profile.*"),
    ],
)
def test_features_and_answers_are_not_deleted(run: Preparer, tmp_path: Path, name: str, told: str) -> None:
    """They cost hours and money, and they belong to raw ids: another filter does not change them."""
    write_csv(tmp_path, SHAPE)
    folder = run("csv", inter=tmp_path / "my.csv")
    (folder / name).touch()
    message = run.refusal("csv", inter=tmp_path / "my.csv", overwrite=True)
    assert f"--overwrite would delete what `extract` and `profiles` have written ({told}); move" in message


def test_leftovers_of_a_killed_prepare_are_deleted(run: Preparer, tmp_path: Path) -> None:
    write_csv(tmp_path, SHAPE)
    (run.data_path / ".toy.0123abcd.tmp" / "deep").mkdir(parents=True)
    (run.data_path / ".other.0123abcd.tmp").mkdir()
    run("csv", inter=tmp_path / "my.csv")
    assert {path.name for path in run.data_path.iterdir()} == {"toy", ".other.0123abcd.tmp"}


def test_two_processes_do_not_write_one_dataset(
    run: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path, SHAPE)
    write = pipeline.write_interactions
    refusals: list[str] = []

    def second(*arguments: Any) -> None:
        with pytest.raises(UserError, match="another process writes this dataset") as caught:
            Preparer(tmp_path)("csv", inter=tmp_path / "my.csv")
        refusals.append(str(caught.value))
        write(*arguments)

    monkeypatch.setattr(pipeline, "write_interactions", second)
    run("csv", inter=tmp_path / "my.csv")
    assert len(refusals) == 1


def test_a_dataset_that_appears_meanwhile_is_not_replaced(
    run: Preparer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_csv(tmp_path, SHAPE)
    write, file = pipeline.write_interactions, run.data_path / "toy" / "toy.inter"

    def appear(*arguments: Any) -> None:
        file.parent.mkdir()
        file.write_text("of someone else")
        write(*arguments)

    monkeypatch.setattr(pipeline, "write_interactions", appear)
    with pytest.raises(UserError, match="exists already"):
        run("csv", inter=tmp_path / "my.csv")
    assert file.read_text() == "of someone else"
    assert [path.name for path in run.data_path.iterdir()] == ["toy"]


def test_an_input_inside_the_target_is_refused(run: Preparer) -> None:
    write_csv(run.data_path / "toy", SHAPE)
    message = run.refusal("csv", inter=run.data_path / "toy" / "my.csv", overwrite=True)
    assert "contains the input" in message
    assert (run.data_path / "toy" / "my.csv").exists()


def test_an_output_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_csv(tmp_path, SHAPE)
    Path("taken").touch()
    assert cli.main(["prepare", "csv", "--inter=my.csv", "--name=toy", "--data_path=taken"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: taken")
    assert printed.err.count("\n") == 1
    assert "written" not in printed.out


def test_recbole_reads_what_is_written(run: Preparer, tmp_path: Path) -> None:
    """The atomic files, texts with quotation marks among them, load as RecBole loads its own."""
    write_csv(tmp_path, SHAPE)
    titles = ['"Quoted" title', '"', "NA", "", 'an inch, 1"', "tab\tand\nline"]
    with (tmp_path / "items.csv").open("w", newline="") as handle:
        rows = [(f"i{item}", titles[item % len(titles)]) for item in range(SHAPE.items)]
        csv.writer(handle).writerows([("item_id", "title"), *rows])
    run("csv", inter=tmp_path / "my.csv", items=tmp_path / "items.csv")
    values = {
        "data_path": str(run.data_path),
        "load_col": {"inter": ["user_id", "item_id", "rating", "timestamp"], "item": ["item_id", "title"]},
        "gpu_id": "",
    }
    dataset = MultimodalDataset(Config("LightGCN", "toy", config_dict=values))
    told = manifest(run.data_path / "toy")["counts"]
    assert (dataset.user_num - 1, dataset.item_num - 1) == (told["users"], told["items"])
    assert [len(split) for split in dataset.build()] == [told["train"], told["valid"], told["test"]]
    assert len(dataset.item_feat) == dataset.item_num
    assert dataset.item_feat["title"].shape[0] == dataset.item_num


def test_yaml_names_modalities_that_yaml_would_misread() -> None:
    text = folder_module.dataset_yaml("toy", "here", ["no", "image"])
    assert '"no", image' in text


def test_items_stand_in_the_order_in_which_they_are_met(run: Preparer, tmp_path: Path) -> None:
    (tmp_path / "my.csv").write_text("user_id,item_id\nu,9\nu,10\nu,2\nv,10\nv,2\nv,9\n")
    (tmp_path / "items.csv").write_text("item_id,t\n2,b\n9,a\n")
    folder = run("csv", inter=tmp_path / "my.csv", items=tmp_path / "items.csv")
    assert pd.read_csv(folder / "items.tsv", sep="\t", dtype=str)["item_id"].tolist() == ["9", "10", "2"]


@pytest.mark.parametrize("kind", ["pipe", "loop", "zero", "folder"])
@pytest.mark.parametrize(
    ("source", "file"), [("microlens", "MicroLens-50k_pairs.csv"), ("movielens", "u.data"), ("csv", "my.csv")]
)
def test_raw_data_that_are_no_regular_file(
    run: Preparer, tmp_path: Path, source: str, file: str, kind: str
) -> None:
    path = tmp_path / "raw" / file
    path.parent.mkdir()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    assert str(path.parent) in run.refusal(
        source, **{"inter": path} if source == "csv" else {"source": path.parent}
    )
