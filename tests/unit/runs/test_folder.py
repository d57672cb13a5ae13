"""What goes into a run folder comes out again; whatever is damaged is told in one line naming the file."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.torch import save_file

from recbole_siger.common import tensor_files
from recbole_siger.errors import UserError
from recbole_siger.runs.checkpoint import pack, unpack
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.forms import RESULTS
from recbole_siger.runs.scoring import read_ids

STATE = {"model.weight": torch.arange(6.0).reshape(2, 3), "model.bias": torch.tensor([1, 2])}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder.create(tmp_path / "run")
    run.write_config({"model": "BPR", "dataset": "toy", "seed": 3})
    run.write_ids(["[PAD]", "u1", "ü"], ["[PAD]", "a b"])
    run.write_tensors("model.safetensors", STATE, model="BPR", other={})
    return run


def told(caught: pytest.ExceptionInfo[UserError], file: Path | str) -> str:
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{file}: ")
    return message


# ---- tensors


def same(first: Any, second: Any) -> bool:
    if sp.issparse(first):
        return bool(
            type(first) is type(second)
            and first.shape == second.shape
            and first.dtype == second.dtype
            and np.array_equal(first.toarray(), second.toarray())
        )
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.shape == second.shape and np.array_equal(first, second)
    return type(first) is type(second) and bool(first == second)


dtypes = st.sampled_from([np.float32, np.float64, np.int64, np.int32, np.bool_])
arrays = dtypes.flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(max_dims=3, max_side=5),
        elements={"allow_nan": False} if np.dtype(dtype).kind == "f" else None,
    )
)
matrices = st.tuples(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.sampled_from([0, 0, 1.5, -2])
    ),
    st.sampled_from(["csr", "csc", "coo"]),
).map(lambda pair: sp.coo_matrix(pair[0]).asformat(pair[1]))
values = st.one_of(
    arrays,
    arrays.map(lambda array: torch.from_numpy(array.copy())),
    matrices,
    st.none(),
    st.booleans(),
    st.integers(-(2**53), 2**53),
    st.floats(allow_nan=False),
    st.text(max_size=5),
)


@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), values, max_size=4))
def test_other_parameters_survive_the_file(other: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run")
        state, kinds = pack(other)
        run.write_tensors("model.safetensors", state, other=kinds)
        read, metadata = run.read_tensors("model.safetensors")
    found = unpack(read, metadata["other"])
    assert found.keys() == other.keys()
    assert all(same(other[name], found[name]) for name in other)


def test_a_numpy_number_becomes_a_number() -> None:
    state, kinds = pack({"x": np.float64(1.5), "n": np.int64(3)})
    assert state == {}
    assert unpack(state, kinds) == {"x": 1.5, "n": 3}


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2], (1,), {1}, object(), torch.nn.Linear(1, 1), 1j, b"x"])
def test_whatever_needs_a_pickle_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^thing: a \w+ cannot be saved without pickle$"):
        pack({"thing": value})


def test_tensors_and_metadata_survive(run: RunFolder) -> None:
    state, metadata = run.read_tensors("model.safetensors")
    assert metadata == {"model": "BPR", "other": {}}
    assert state.keys() == STATE.keys()
    assert all(same(STATE[key], state[key]) for key in STATE)


def test_the_same_tensors_make_the_same_bytes(run: RunFolder) -> None:
    written = set()
    for _ in range(20):
        run.write_tensors("model.safetensors", STATE, model="BPR", other={})
        written.add(run.file("model.safetensors").read_bytes())
    assert len(written) == 1


def test_shared_and_strided_tensors_are_written_as_they_look(run: RunFolder) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    run.write_tensors("model.safetensors", {"a": table, "b": table, "t": table.T})
    state, _ = run.read_tensors("model.safetensors")
    assert torch.equal(state["a"], table)
    assert torch.equal(state["b"], table)
    assert torch.equal(state["t"], table.T)


def test_a_failed_write_leaves_the_old_file(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    before = run.file("model.safetensors").read_bytes()

    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(before[: len(before) // 2])
        raise OSError("disk full")

    monkeypatch.setattr(tensor_files, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        run.write_tensors("model.safetensors", {})
    assert run.file("model.safetensors").read_bytes() == before
    assert {path.name for path in run.path.iterdir()} == {"config.yaml", "ids", "model.safetensors"}


# ---- damage


@pytest.mark.parametrize("length", [0, 1, 7, 8, 20, 100, -1])
def test_a_truncated_file(run: RunFolder, length: int) -> None:
    file = run.file("model.safetensors")
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(UserError) as caught:
        run.read_tensors("model.safetensors")
    assert "damaged or not a safetensors file" in told(caught, file)


@given(st.binary(min_size=0, max_size=300))
def test_random_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            RunFolder(folder).read_tensors("model.safetensors")
        told(caught, file)


@pytest.mark.parametrize(
    "metadata",
    [None, {}, {"format": "pt"}, {"format": "recbole_siger/2", "json": "{}"}],
)
def test_a_foreign_safetensors_file(run: RunFolder, metadata: Any) -> None:
    file = run.file("model.safetensors")
    save_file(STATE, file, metadata=metadata)
    with pytest.raises(UserError) as caught:
        run.read_tensors("model.safetensors")
    assert "not written by recbole-siger" in told(caught, file)


@pytest.mark.parametrize(
    "metadata", [{"format": "recbole_siger/1"}, {"format": "recbole_siger/1", "json": "{"}]
)
def test_a_file_of_ours_with_broken_metadata(run: RunFolder, metadata: Any) -> None:
    file = run.file("model.safetensors")
    save_file(STATE, file, metadata=metadata)
    with pytest.raises(UserError) as caught:
        run.read_tensors("model.safetensors")
    told(caught, file)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("model.safetensors", "--saved=False"),
        ("checkpoint.safetensors", "the run has not reached a checkpoint"),
        ("seen.safetensors", "missing; copy the whole run folder, or train again"),
    ],
)
def test_a_missing_file(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        RunFolder(tmp_path).read_tensors(name)
    assert hint in told(caught, tmp_path / name)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"model: [BPR\n", "damaged: "),
        (b"model: BPR\n\tdataset: toy\n", "damaged: "),
        (b"\xff\xfe\x00", "damaged: "),
        (b"model: !!python/object/apply:os.getcwd []\ndataset: toy\n", "damaged: "),
        (b"", "no model or dataset"),
        (b"- model\n", "no model or dataset"),
        (b"model: BPR\n", "no model or dataset"),
        (b"model: [a]\ndataset: toy\n", "damaged: model=['a'], expected a name"),
        (b"model: BPR\ndataset:\n", "damaged: dataset=None, expected a name"),
        (b"model: ''\ndataset: toy\n", "damaged: model='', expected a name"),
    ],
)
def test_a_damaged_config(run: RunFolder, content: bytes, part: str) -> None:
    file = run.file("config.yaml")
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        run.read_config()
    assert part in told(caught, file)


# ---- ids


def test_the_ids_of_training_are_accepted(run: RunFolder) -> None:
    run.check_ids(["[PAD]", "u1", "ü"], ["[PAD]", "a b"])
    assert run.file("ids/users.txt").read_text(encoding="utf-8") == "[PAD]\nu1\nü\n"


@pytest.mark.parametrize(
    ("users", "items", "name"),
    [
        (["[PAD]", "ü", "u1"], ["[PAD]", "a b"], "users"),
        (["[PAD]", "u1"], ["[PAD]", "a b"], "users"),
        (["[PAD]", "u1", "ü", "new"], ["[PAD]", "a b"], "users"),
        (["[PAD]", "u1", "ü"], ["[PAD]", "a"], "items"),
    ],
)
def test_other_ids_are_refused(run: RunFolder, users: list[str], items: list[str], name: str) -> None:
    with pytest.raises(UserError) as caught:
        run.check_ids(users, items)
    assert f"the ids of {name} differ from those used in training" in told(
        caught, run.file(f"ids/{name}.txt")
    )


def test_missing_or_damaged_ids(run: RunFolder) -> None:
    file = run.file("ids/items.txt")
    file.write_bytes(b"[PAD]\n\xff\n")
    with pytest.raises(UserError) as caught:
        run.check_ids(["[PAD]", "u1", "ü"], ["[PAD]", "a b"])
    told(caught, file)
    file.unlink()
    with pytest.raises(UserError) as caught:
        run.check_ids(["[PAD]", "u1", "ü"], ["[PAD]", "a b"])
    assert "missing" in told(caught, file)


def test_ids_have_one_reader(run: RunFolder) -> None:
    """Line ends may be those of Windows; a carriage return within an id is a letter of the id."""
    file = run.file("ids/users.txt")
    file.write_bytes("[PAD]\r\nu1\r\nü\r\n".encode())
    run.check_ids(["[PAD]", "u1", "ü"], ["[PAD]", "a b"])
    assert read_ids(run, "users", 3) == ["[PAD]", "u1", "ü"]
    run.write_ids(["[PAD]", "u\r1", "ü"], ["[PAD]", "a b"])
    run.check_ids(["[PAD]", "u\r1", "ü"], ["[PAD]", "a b"])
    assert read_ids(run, "users", 3) == ["[PAD]", "u\r1", "ü"]
    with pytest.raises(UserError, match=r"has 3 lines, embeddings\.safetensors has 4 rows"):
        read_ids(run, "users", 4)


@pytest.mark.parametrize("name", ["users", "items"])
def test_an_id_that_occurs_twice_is_refused(run: RunFolder, name: str) -> None:
    ids = {"users": ["[PAD]", "u1", "ü"], "items": ["[PAD]", "a b"]}
    run.write_ids(**{**ids, name: ["[PAD]", "x", "y", "x"]})
    for read in (lambda: run.check_ids(**ids), lambda: read_ids(run, name, 4)):
        with pytest.raises(UserError) as caught:
            read()
        assert "damaged: the id 'x' occurs twice; copy" in told(caught, run.file(f"ids/{name}.txt"))


# ---- the folder


def test_a_run_is_never_overwritten(run: RunFolder) -> None:
    with pytest.raises(UserError) as caught:
        RunFolder.create(run.path)
    assert f"an unfinished run; `recbole-siger resume {run.path}`" in told(caught, run.path)
    run.write_results({})
    with pytest.raises(UserError) as caught:
        RunFolder.create(run.path)
    assert "a finished run; choose another --run_dir" in told(caught, run.path)


def test_an_existing_empty_folder_is_taken(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path).path == tmp_path


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(UserError) as caught:
            RunFolder.create(path)
        assert "cannot be made" in told(caught, path)


def test_only_a_run_folder_is_opened(run: RunFolder, tmp_path: Path) -> None:
    assert RunFolder.open(run.path).read_config()["seed"] == 3
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError) as caught:
            RunFolder.open(path)
        assert "not a run folder" in told(caught, path)


def test_what_never_began_is_removed(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "new")
    run.file("run.log").write_text("failed\n")
    run.discard_unstarted()
    assert not run.path.exists()


def test_what_began_or_is_not_ours_stays(run: RunFolder, tmp_path: Path) -> None:
    run.file("run.log").write_text("started\n")
    run.discard_unstarted()
    assert run.file("run.log").exists()
    foreign = RunFolder.create(tmp_path / "foreign")
    foreign.file("notes.txt").write_text("keep")
    foreign.discard_unstarted()
    assert foreign.file("notes.txt").read_text() == "keep"


def test_a_new_folder_is_made_by_one_process_only(tmp_path: Path) -> None:
    with ThreadPoolExecutor(13) as pool:
        paths = [run.path for run in pool.map(lambda _: numbered(tmp_path / "run"), range(13))]
    assert {path.name for path in paths} == {"run", *(f"run-{number}" for number in range(2, 14))}


def numbered(path: Path) -> RunFolder:
    return RunFolder.create(path, numbered=True)


def test_the_default_name_passes_folders_in_use(run: RunFolder) -> None:
    run.path.with_name("run-2").mkdir()
    assert numbered(run.path).path.name == "run-3"


@pytest.mark.parametrize("name", ["results.json", "run.log", "notes/thesis.txt", ".hidden", "metrics.jsonl"])
def test_a_folder_with_files_of_the_user_is_refused_and_unchanged(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(UserError) as caught:
        RunFolder.create(tmp_path)
    reason = f"such as {name.split('/')[0]}; choose another --run_dir"
    if name == "run.log":
        reason = "leaves such files: delete them unless they are yours, or choose another --run_dir"
    assert reason in told(caught, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]
    assert (tmp_path / name).read_text() == "mine"


def test_a_locked_folder_is_refused_and_unchanged(tmp_path: Path) -> None:
    """Two processes may both see an empty folder; the one that gets no lock removes nothing."""
    first, second = RunFolder.create(tmp_path), RunFolder.create(tmp_path)
    with first.locked(unused=True):
        first.file("run.log").write_text("first\n")
        with pytest.raises(UserError, match="another process works on this run"), second.locked(unused=True):
            raise AssertionError
        assert first.file("run.log").read_text() == "first\n"
        first.write_config({"model": "BPR", "dataset": "toy"})
    with pytest.raises(UserError, match="has an unfinished run"), second.locked(unused=True):
        raise AssertionError
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "run.log"}


def test_a_run_that_fails_before_it_begins_leaves_nothing(tmp_path: Path) -> None:
    new, empty = RunFolder.create(tmp_path / "new"), tmp_path / "empty"
    empty.mkdir()
    for run in (new, RunFolder.create(empty)):
        with pytest.raises(OSError, match="disk full"), run.locked(unused=True):  # noqa: PT012
            run.file("run.log").write_text("failed\n")
            run.write_ids(["[PAD]"], ["[PAD]"])
            raise OSError("disk full")
    assert not new.path.exists()
    assert not any(empty.iterdir())


@pytest.mark.parametrize(
    "name", ["run.log", "metrics.jsonl", "ids/users.txt", "checkpoint.safetensors", "ids"]
)
def test_a_symbolic_link_in_a_run_folder_is_refused(run: RunFolder, tmp_path: Path, name: str) -> None:
    outside, file = tmp_path / "outside", run.file(name)
    if name == "ids":
        run.file("ids").rename(outside)
    else:
        outside.write_text("of another folder")
        file.unlink(missing_ok=True)
    file.symlink_to(outside)
    with pytest.raises(UserError) as caught, run.locked():
        raise AssertionError
    assert "is a symbolic link" in told(caught, file)


def test_leftovers_of_a_killed_write_are_deleted(run: RunFolder) -> None:
    for name in (".model.0a1b2c3d.tmp.safetensors", ".results.ffffffff.tmp.json", ".notes.tmp"):
        run.file(name).write_text("half")
    with run.locked():
        pass
    assert {path.name for path in run.path.glob(".*")} == {".notes.tmp"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "model is missing"),
        ("[]", "the content is a list, expected an object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"model": 3', "Expecting"),
        ("1" * 5000, "Exceeds the limit"),
        ("null", "the content is None, expected an object"),
    ],
)
def test_damaged_results_are_one_line(run: RunFolder, text: str, said: str) -> None:
    run.file("results.json").write_text(text)
    with pytest.raises(UserError) as caught:
        run.read_results()
    assert said in told(caught, run.file("results.json"))
    assert len(str(caught.value)) < 400 + len(str(run.path))


def whole_results() -> dict[str, Any]:
    values: dict[Any, Any] = {str: "x", int: 3, float: 0.5, dict: {}}
    return {
        key: values.get(form if isinstance(form, type) else form[0] if isinstance(form, tuple) else dict)
        for key, form in RESULTS.items()  # type: ignore[union-attr]  # a mapping
    } | {"test": {"recall@20": 0.5}}


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("test", {"recall@20": "high"}, "test.recall@20 is 'high', expected a number"),
        (
            "test",
            {"recall@20": float("nan")},
            "test.recall@20 is nan, expected a number (finite, in 64 bits)",
        ),
        ("valid", {"recall@20": -float("inf")}, "valid.recall@20 is -inf, expected a number (finite"),
        ("test", {"recall@20": 10**400}, "expected a number (finite, in 64 bits)"),
        ("n_parameters", 10**400, "expected an integer (finite, in 64 bits)"),
        ("best_epoch", 2**63, "expected an integer or null (finite, in 64 bits)"),
        ("test", {}, "test is empty"),
        ("chance", {"recall@20": 10**400}, "expected a number (finite, in 64 bits)"),
        ("valid", [1], "valid is a list, expected an object"),
        ("seed", True, "seed is True, expected an integer"),
        ("versions", {"torch": 2}, "versions.torch is 2, expected text"),
        ("best_epoch", "last", "best_epoch is 'last', expected an integer or null"),
    ],
)
def test_results_of_another_form_name_the_key(run: RunFolder, key: str, value: Any, said: str) -> None:
    run.write_results(whole_results())
    assert run.read_results() == whole_results()
    run.write_results({**whole_results(), key: value})
    with pytest.raises(UserError) as caught:
        run.read_results()
    assert said in told(caught, run.file("results.json"))


@pytest.mark.parametrize("text", ["{}", "[]", "3", '{"epoch": "one"}', "[" * 100_000])
def test_a_damaged_line_of_metrics_is_named(run: RunFolder, text: str) -> None:
    run.file("metrics.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: damaged: "):
        run.read_metrics()


def test_a_pipe_in_the_place_of_a_file_does_not_hang(run: RunFolder) -> None:
    for name, read in (("results.json", run.read_results), ("config.yaml", run.read_config)):
        run.file(name).unlink(missing_ok=True)
        os.mkfifo(run.file(name))
        with pytest.raises(UserError, match="not a plain file"):
            read()


def test_a_huge_file_is_refused_unread(run: RunFolder) -> None:
    with run.file("results.json").open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(UserError, match="1,099,511,627,776 bytes, more than"):
        run.read_results()


def test_results_come_last_and_drop_the_checkpoint(run: RunFolder) -> None:
    run.write_tensors("checkpoint.safetensors", STATE)
    run.write_results({"test": {"recall@20": 0.1 + 0.2}})
    assert json.loads(run.file("results.json").read_text())["test"]["recall@20"] == 0.1 + 0.2
    assert not run.file("checkpoint.safetensors").exists()


def test_metrics_are_a_line_an_epoch_and_can_be_cut(run: RunFolder) -> None:
    run.truncate_metrics(0)  # nothing there yet
    for epoch in range(5):
        run.append_metrics({"epoch": epoch})
    run.truncate_metrics(3)
    lines = run.file("metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [0, 1, 2]


# ---- users.csv


def test_users_survive_to_the_last_digit(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    frame = pd.DataFrame(
        {"user_id": ["007", "NA", "é,1"], "n_train": [3, 0, 5], "recall@2": [1 / 3, 0.1 + 0.2, 0]}
    )
    run.write_users(frame)
    pd.testing.assert_frame_equal(run.read_users(), frame)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "missing"),
        ("", "damaged"),
        ("user,n\n1,2\n", "not a table of users"),
        ("user_id,n_train,recall@2\nu,1,much\n", "not a table of users"),
        ("user_id,n_train,recall@2\nu,1,inf\nv,1,0\n", "recall@2 has a number that is not finite"),
        ("user_id,n_train,recall@2\nu,-inf,0\n", "n_train has a number that is not finite"),
    ],
)
def test_a_damaged_users_file_is_told(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "users.csv").write_text(text)
    with pytest.raises(UserError, match=rf"users\.csv: .*{said}"):
        RunFolder(tmp_path).read_users()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of the memory from /proc")
def test_a_written_state_is_not_copied(tmp_path: Path) -> None:
    """safetensors' `save` returns the bytes of the file, which were written after two more copies."""
    run, size = RunFolder.create(tmp_path / "run"), 67 << 20
    state = {"model.weight": torch.zeros(size // 4), "model.bias": torch.ones(3)}
    run.write_tensors("model.safetensors", {"model.bias": state["model.bias"]})  # what the first call loads
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory_of_process("VmRSS")
    run.write_tensors("model.safetensors", state)
    assert memory_of_process("VmHWM") - before < size / 4
    assert run.file("model.safetensors").stat().st_size > size


def memory_of_process(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(f"{name}:")))
