"""A campaign re-uses, resumes and starts runs; what goes wrong is told and ends nothing else."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from recbole_siger.common.files import sha256
from recbole_siger.config import Config
from recbole_siger.data import files
from recbole_siger.errors import UserError
from recbole_siger.runs.folder import RunFolder
from recbole_siger.studies import campaign
from recbole_siger.studies.campaign import Failure, RunSpec, complete_runs, config_hash, one_seed_is_enough
from tests.integration.conftest import Settings


@pytest.fixture
def options(settings: Settings) -> dict[str, Any]:
    """Options of a quick run on the toy data."""
    values = settings(epochs=2)
    del values["seed"]
    return values


def silent(_: str) -> None:
    return


def finished(outcome: RunFolder | Failure) -> RunFolder:
    assert isinstance(outcome, RunFolder), outcome
    return outcome


def test_missing_runs_are_started_and_finished_ones_used_again(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    specs = [
        RunSpec("BPR", "toy", 3, options),
        RunSpec("BPR", "toy", 5, options),
        RunSpec("BPR", "toy", 3, options),
    ]
    lines: list[str] = []
    first = [finished(outcome).path for outcome in complete_runs(specs, report=lines.append)]
    assert [words[0] for words in in_process] == ["run", "run"]
    assert first[0] == first[2] != first[1]
    assert first[0].parent == Path("runs/toy")
    assert any(line.startswith("[1/2] BPR seed 3: runs/toy/BPR-") for line in lines)
    assert any(line.startswith("BPR seed 5 | epoch    1") for line in lines)
    seeds = [json.loads((path / "results.json").read_text())["seed"] for path in first]
    assert seeds == [3, 5, 3]

    elsewhere = first[1].rename("runs/toy/of-another-name")
    again = [finished(outcome).path for outcome in complete_runs(specs, report=silent)]
    assert again == [first[0], elsewhere, first[0]]
    assert len(in_process) == 2


def test_a_folder_keeps_the_configuration_that_was_planned(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    """Values survive the way through the command line, whatever their type."""
    options = {**options, "topk": [3, 5], "learning_rate": 1e-05, "modalities": ["text"], "prepare": None}
    (outcome,) = complete_runs([RunSpec("SIGER", "toy", 3, options)], report=silent)
    kept = finished(outcome).read_config()
    config = Config("SIGER", "toy", config_dict={**options, "seed": 3})
    assert config_hash(kept) == config_hash(config.effective())
    assert (kept["learning_rate"], kept["modalities"], kept["prepare"]) == (1e-05, ["text"], None)


def test_what_changes_no_result_is_not_hashed() -> None:
    values = {"seed": 1, "lr": 0.1}
    assert config_hash(values) == config_hash(
        {"saved": False, "data_path": "/a", "cache_dir": "none", **values}
    )
    assert config_hash(values) != config_hash({**values, "lr": 0.2})
    assert config_hash(values) != config_hash({**values, "seed": 2})
    assert config_hash(values, without=["seed"]) == config_hash({**values, "seed": 2}, without=["seed"])


def test_an_unfinished_run_is_resumed(options: dict[str, Any], in_process: list[list[str]]) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    (outcome,) = complete_runs([spec], report=silent)
    run = finished(outcome)
    results = json.loads(run.file("results.json").read_text())
    run.file("results.json").unlink()
    (again,) = complete_runs([spec], report=silent)
    assert finished(again).path == run.path
    assert [words[0] for words in in_process] == ["run", "resume"]
    assert json.loads(run.file("results.json").read_text())["test"] == results["test"]


def test_a_failed_run_says_why_and_the_others_go_on(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    specs = [
        RunSpec("SIGER", "toy", 3, {**options, "modalities": ["smell"]}),
        RunSpec("BPR", "toy", 3, options),
    ]
    bad, good = complete_runs(specs, report=silent)
    assert isinstance(bad, Failure)
    assert bad.spec is specs[0]
    assert bad.reason.startswith("command line: modalities: 'smell' is not a feature of 'toy'")
    assert finished(good).file("results.json").exists()


def test_a_bad_option_is_told_before_anything_starts(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    specs = [RunSpec("BPR", "toy", 3, options), RunSpec("BPR", "toy", 3, {**options, "epoch": 3})]
    with pytest.raises(UserError, match="unknown key `epoch`; did you mean `epochs`"):
        complete_runs(specs, report=silent)
    with pytest.raises(UserError, match="jobs=0"):
        complete_runs(specs[:1], jobs=0)
    assert in_process == []


def test_the_content_of_data_files_decides_and_not_their_times(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    first = finished(complete_runs([spec], report=silent)[0]).path
    train = Path(options["data_path"]) / "toy" / "toy.train.inter"
    before, later = train.stat(), time.time() + 60
    os.utime(train, (later, later))
    assert finished(complete_runs([spec], report=silent)[0]).path == first
    assert [words[0] for words in in_process] == ["run"]

    train.with_name("toy.smell.ids").write_text("i1\n")  # a new file, which the run does not read
    lines: list[str] = []
    assert finished(complete_runs([spec], report=lines.append)[0]).path == first
    assert any("comparing splits and features" in line for line in lines)
    assert [words[0] for words in in_process] == ["run", "evaluate"]

    rows = train.read_text().splitlines()
    train.write_text("\n".join(rows[:-1]) + "\n")  # other data with the times of the old file
    os.utime(train, ns=(before.st_atime_ns, before.st_mtime_ns))
    lines.clear()
    again = finished(complete_runs([spec], report=lines.append)[0]).path
    assert again == first.with_name(f"{first.name}-2")
    assert [words[0] for words in in_process] == ["run", "evaluate", "evaluate", "run"]
    assert any(line.startswith(f"{first}: not used again: ") for line in lines)


@pytest.mark.parametrize("key", ["features", "user_features"])
def test_a_named_feature_file_anywhere_belongs_to_the_data(key: str, tmp_path: Path) -> None:
    config: Any = {"feature_path": str(tmp_path / "toy"), "data_path": str(tmp_path / "toy")}
    config |= {"features": ["text"], "user_features": None, key: {"profile": "../elsewhere/x.npy"}}
    (tmp_path / "toy").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.npy").write_bytes(b"one")
    (tmp_path / "elsewhere" / "x.ids").write_text("u1\n")
    first = files.DataFiles().digests(config)
    assert [*first] == ["../elsewhere/x.npy", "../elsewhere/x.npy ids"]
    (tmp_path / "elsewhere" / "x.npy").write_bytes(b"two")
    assert files.DataFiles().digests(config) != first


def test_an_evaluated_run_is_not_evaluated_twice(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    """A run that `run` made has no checksums of data files; the first campaign stores them."""
    spec = RunSpec("BPR", "toy", 3, options)
    run = finished(complete_runs([spec], report=silent)[0])
    run.file("data_files.json").unlink()
    for _ in range(2):
        assert finished(complete_runs([spec], report=silent)[0]).path == run.path
    assert [words[0] for words in in_process] == ["run", "evaluate"]


def test_a_data_file_is_read_once_for_all_runs(
    options: dict[str, Any], in_process: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def counting(path: Path) -> str:
        read.append(path.name)
        return sha256(path)

    monkeypatch.setattr(files, "sha256", counting)
    specs = [RunSpec("BPR", "toy", seed, options) for seed in (3, 5)]
    complete_runs(specs, report=silent)
    assert len(read) == len(set(read)) >= 3
    assert {"toy.train.inter", "toy.valid.inter", "toy.test.inter"} <= set(read)


def test_a_run_under_another_protocol_id_is_not_used(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    run = finished(complete_runs([spec], report=silent)[0])
    results = json.loads(run.file("results.json").read_text())
    run.file("results.json").write_text(json.dumps({**results, "protocol_id": "f" * 16}))
    lines: list[str] = []
    again = finished(complete_runs([spec], report=lines.append)[0])
    assert again.path != run.path
    assert again.read_results()["protocol_id"] == results["protocol_id"]
    told = f"its protocol_id is {'f' * 16}, and today's evaluation has {results['protocol_id']}"
    assert f"{run.path}: not used again: {told}" in lines


_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 64))
_HEAD = "model: BPR\ndataset: toy\n"
_ODD = {
    "date": f"{_HEAD}day: !!timestamp 2024-13-45\n",
    "number": f"{_HEAD}5: x\n",
    "mixed": f"{_HEAD}inner: {{5: x, y: z}}\n",
    "bomb": f"{_HEAD}{_BOMB}",
    "itself": f"{_HEAD}inner: &a [*a]\n",
    "deep": f"{_HEAD}inner: {'[' * 5000}\n",
    "list": "[model, dataset]\n",
    "nothing": "",
    "tag": f"{_HEAD}inner: !!python/name:os.system\n",
}


def test_an_odd_folder_is_skipped_with_one_line(options: dict[str, Any], in_process: list[list[str]]) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    for name, text in _ODD.items():
        folder = Path("runs/toy") / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(text)
    lines: list[str] = []
    finished(complete_runs([spec], report=lines.append)[0])
    skipped = [line for line in lines if ": skipped: " in line]
    assert sorted(line.split(":")[0] for line in skipped) == sorted(f"runs/toy/{name}" for name in _ODD)
    assert not any("\n" in line for line in lines)


@pytest.mark.parametrize(
    "content",
    ["[]", '["model"]', "{}", "null", '{"versions": []}', "[" * 100_000, "no JSON"],
)
def test_odd_results_are_not_used(content: str, options: dict[str, Any], in_process: list[list[str]]) -> None:
    spec = RunSpec("Pop", "toy", 3, {**options, "epochs": 1, "embedding_size": None})
    del spec.options["embedding_size"]  # type: ignore[attr-defined]  # a dict
    run = finished(complete_runs([spec], report=silent)[0])
    run.file("results.json").write_text(content)
    lines: list[str] = []
    assert finished(complete_runs([spec], report=lines.append)[0]).path == run.path.with_name(
        f"{run.path.name}-2"
    )
    (told,) = [line for line in lines if ": not used again: " in line]
    assert told.startswith(f"{run.path}: not used again: {run.file('results.json')}: damaged")


def test_finished_runs_come_first_and_begun_runs_second(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    specs = [RunSpec("BPR", "toy", seed, options) for seed in (3, 5, 7)]
    begun, done = (finished(outcome) for outcome in complete_runs(specs[1:], report=silent))
    begun.file("results.json").unlink()
    ended: list[int] = []
    lines: list[str] = []
    outcomes = complete_runs(specs, report=lines.append, ended=lambda spec, outcome: ended.append(spec.seed))
    assert ended == [7, 5, 3]
    heads = [line.rpartition(" ")[0] for line in lines if line.startswith("[")]
    assert heads == [
        "[3/3] BPR seed 7: finished before,",
        "[2/3] BPR seed 5: continuing",
        "[1/3] BPR seed 3:",
    ]
    assert [finished(outcome).path for outcome in outcomes][1:] == [begun.path, done.path]


def test_an_unfinished_run_of_other_data_does_not_block_its_row(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    begun = finished(complete_runs([spec], report=silent)[0])
    begun.file("results.json").unlink()
    train = Path(options["data_path"]) / "toy" / "toy.train.inter"
    train.write_text("\n".join(train.read_text().splitlines()[:-1]) + "\n")
    lines: list[str] = []
    again = finished(complete_runs([spec], report=lines.append)[0])
    assert again.path == begun.path.with_name(f"{begun.path.name}-2")
    assert any(line.startswith(f"{begun.path}: not continued: ") for line in lines)
    assert [words[0] for words in in_process] == ["run", "resume", "run"]
    assert not begun.finished


def test_a_run_is_continued_and_tested_on_the_gpus_of_this_command(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    """The first session's GPU can be busy, or not exist on this machine."""
    spec, later = (RunSpec("BPR", "toy", 3, {**options, "gpu_id": gpus}) for gpus in ("", "0"))
    run = finished(complete_runs([spec], report=silent)[0])
    run.file("results.json").unlink()
    assert finished(complete_runs([later], report=silent)[0]).path == run.path
    run.file("data_files.json").unlink()
    assert finished(complete_runs([later], report=silent)[0]).path == run.path
    assert [words[0] for words in in_process] == ["run", "resume", "evaluate"]
    assert all("--gpu_id=0" in words for words in in_process[1:])


def test_progress_lines_name_the_variant(options: dict[str, Any], in_process: list[list[str]]) -> None:
    specs = [
        RunSpec("BPR", "toy", 3, {**options, "learning_rate": rate}, label=f"learning_rate={rate}")
        for rate in (0.5, 0.25)
    ]
    lines: list[str] = []
    runs = [finished(outcome) for outcome in complete_runs(specs, report=lines.append)]
    assert lines[0] == f"[1/2] BPR learning_rate=0.5 seed 3: {runs[0].path}"
    assert any(line.startswith("BPR learning_rate=0.25 seed 3 | epoch    1") for line in lines)
    for spec, run in zip(specs, runs, strict=True):
        values = {**spec.options, "seed": 3}
        key = config_hash(Config("BPR", "toy", config_dict=values).effective())
        assert run.path == Path(f"runs/toy/BPR-{key[:8]}-seed3")


def test_a_run_of_another_version_is_not_used(options: dict[str, Any], in_process: list[list[str]]) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    run = finished(complete_runs([spec], report=silent)[0])
    results = json.loads(run.file("results.json").read_text())
    results["versions"]["recbole-siger"] = "0.0.1"
    run.file("results.json").write_text(json.dumps(results))
    assert finished(complete_runs([spec], report=silent)[0]).path != run.path


def test_only_models_without_draws_on_a_given_split_need_one_seed(options: dict[str, Any]) -> None:
    del options["embedding_size"]
    assert one_seed_is_enough(RunSpec("EASE", "toy", 3, options))
    assert not one_seed_is_enough(RunSpec("BPR", "toy", 3, options))
    assert not one_seed_is_enough(RunSpec("Random", "toy", 3, options))
    assert not one_seed_is_enough(RunSpec("EASE", "ml-100k", 3))  # its split is drawn with the seed
    by_time = {**options, "benchmark_filename": None}
    for drawn in (
        {"eval_args": {"split": {"RS": [8, 1, 1]}, "order": "TO", "mode": "uni5"}},  # its candidates
        {"cold_start": {"kind": "item"}},  # its cold items
    ):
        assert not one_seed_is_enough(RunSpec("EASE", "ml-100k", 3, {**by_time, **drawn}))


def test_the_environment_stays(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    one_seed_is_enough(RunSpec("BPR", "toy", 3, {**options, "gpu_id": "1"}))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"


@pytest.mark.parametrize(
    ("code", "complaint", "reason"),
    [
        (2, "warning\nerror: the key is bad\n", "the key is bad"),
        (2, "error: the key is bad\nUserWarning: at exit\n", "the key is bad"),
        (1, "Traceback\n  File\nValueError: no\n", "ValueError: no"),
        (-signal.SIGKILL, "", "killed by SIGKILL; out of memory?"),
        (-signal.SIGSEGV, "", "killed by SIGSEGV"),
        (3, "", "ended with exit code 3"),
    ],
)
def test_reasons(code: int, complaint: str, reason: str) -> None:
    assert campaign._reason(code, complaint) == reason


@pytest.mark.parametrize("finishes", [True, False])
def test_a_campaign_waits_for_the_process_that_works_on_its_run(
    finishes: bool, options: dict[str, Any], in_process: list[list[str]]
) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    run = finished(complete_runs([spec], report=silent)[0])
    results, lines = run.file("results.json").read_text(), []
    run.file("results.json").unlink()
    with ThreadPoolExecutor(1) as pool:
        with run.locked():
            future = pool.submit(complete_runs, [spec], report=lines.append)
            while not any("waiting for the process that works on" in line for line in lines):
                assert not future.done(), future.result()
                time.sleep(0.01)
            if finishes:
                run.file("results.json").write_text(results)
        (outcome,) = future.result(timeout=60)
    assert finished(outcome).path == run.path
    assert [words[0] for words in in_process] == (["run"] if finishes else ["run", "resume"])
    assert run.file("results.json").exists()


def test_two_campaigns_make_a_run_once(options: dict[str, Any], in_process: list[list[str]]) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(complete_runs, [spec], report=silent) for _ in range(2)]
        paths = {finished(future.result(timeout=120)[0]).path for future in futures}
    assert len(paths) == 1
    assert [words[0] for words in in_process] == ["run"]


def test_a_folder_of_a_killed_start_is_left_alone(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    spec = RunSpec("BPR", "toy", 3, options)
    run = finished(complete_runs([spec], report=silent)[0])
    for file in run.path.iterdir():
        if file.name not in ("run.log", "ids"):
            file.unlink()
    again = finished(complete_runs([spec], report=silent)[0])
    assert again.path == run.path.with_name(f"{run.path.name}-2")
    assert {file.name for file in run.path.iterdir()} == {"run.log", "ids"}


@pytest.mark.slow
def test_a_terminated_campaign_leaves_a_checkpoint_and_no_process(
    options: dict[str, Any],
) -> None:
    """Real processes: the run is stopped with its campaign."""
    options = {**options, "epochs": 10_000, "stopping_step": 10_000, "checkpoint_interval": 0}
    code = (
        "from recbole_siger.studies.campaign import RunSpec, complete_runs\n"
        f"complete_runs([RunSpec('BPR', 'toy', 3, {options!r})], report=lambda line: print(line, flush=True))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("epoch    1" in line for line in process.stdout)
        process.terminate()
        complaint = process.communicate(timeout=600)[1]
    assert "recbole_siger.errors.Terminated" in complaint
    (folder,) = Path("runs/toy").glob("[!.]*")
    with RunFolder(folder).locked():  # no process works on the run
        pass
    assert not (folder / "results.json").exists()
    assert (folder / "checkpoint.safetensors").exists()


@pytest.mark.slow
def test_the_run_of_a_killed_campaign_ends_and_the_next_campaign_continues_it(
    options: dict[str, Any], in_process: list[list[str]]
) -> None:
    """Real processes: SIGKILL leaves the campaign no time to stop its run."""
    options = {**options, "epochs": 151, "stopping_step": 151, "checkpoint_interval": 0}
    code = (
        "from recbole_siger.studies.campaign import RunSpec, complete_runs\n"
        f"complete_runs([RunSpec('BPR', 'toy', 3, {options!r})], report=lambda line: print(line, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("epoch    1" in line for line in process.stdout)
        process.kill()
    (folder,) = Path("runs/toy").glob("[!.]*")
    deadline = time.monotonic() + 60
    while True:
        try:
            with RunFolder(folder).locked():
                break
        except UserError:
            assert time.monotonic() < deadline, "the run trains on"
            time.sleep(0.1)
    assert not (folder / "results.json").exists()
    (outcome,) = complete_runs([RunSpec("BPR", "toy", 3, options)], report=silent)
    assert finished(outcome).path == folder
    assert [words[0] for words in in_process] == ["resume"]
