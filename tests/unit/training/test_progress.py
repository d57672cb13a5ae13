"""One line an epoch, plain without a terminal; the log goes where it is told and back."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from recbole_siger.common.log import following, logging_to
from recbole_siger.training import progress as module
from recbole_siger.training.progress import WIDTH, EpochRecord, Progress, Schedule, Standing, peak_memory_mib


def record(**changes: object) -> EpochRecord:
    values = {
        "epoch": 3,
        "loss": {"bpr": 0.69314, "reg": 1.5e-7},
        "valid": {"recall@20": 0.12345, "ndcg@20": 0.5},
        "best_epoch": 2,
        "seconds_train": 1.25,
        "seconds_valid": 0.5,
        "peak_memory_mib": 812.6,
    }
    return EpochRecord(**{**values, **changes})  # type: ignore[arg-type]  # a test's shorthand


STANDING = Standing("recall@20", -0.00655, 0.13, (7, 20), (700.0, 122000.0))


def test_the_line_of_an_epoch() -> None:
    assert STANDING.line(record()) == (
        "epoch    3  recall@20 0.1235 -0.0066  best 0.1300 at 2  patience 7/20  1.75 s  left 12 min-34 h"
    )


def test_the_line_of_the_first_validation_and_of_the_last_epoch() -> None:
    first = Standing("recall@20", None, 0.1235, (0, 20), (14.0, 14.0))
    assert first.line(record(epoch=0, best_epoch=0)) == (
        "epoch    0  recall@20 0.1235  best 0.1235 at 0  patience 0/20  1.75 s  left 14 s"
    )
    assert "left" not in Standing("recall@20").line(record())


def test_an_epoch_without_validation_has_no_score() -> None:
    between = Standing("recall@20", None, 0.13, (7, 20), (14.0, 21.0))
    assert between.line(record(valid=None)) == (
        "epoch    3  best 0.1300 at 2  patience 7/20  1.75 s  left 14-21 s"
    )
    never = Standing("recall@20", seconds_left=(14.0, 14.0))
    assert never.line(record(valid=None, best_epoch=None)) == "epoch    3  1.75 s  left 14 s"


@pytest.mark.parametrize("metric", ["recall@20", "precision@20", "averagepopularity@100"])
@pytest.mark.parametrize("seconds", [0.0, 9.999, 99.99, 9999.4])
def test_a_line_fits_in_100_columns(metric: str, seconds: float) -> None:
    widest = Standing(metric, -0.99999, 9.99994, (20, 20), (5399.0, 86400.0 * 99))
    line = widest.line(
        record(epoch=9999, best_epoch=9998, valid={metric: 9.99994}, seconds_train=seconds, seconds_valid=0)
    )
    assert 90 <= len(line) <= WIDTH == 100


def test_loss_terms_and_memory_go_to_the_file_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with logging_to(tmp_path / "run.log"):
        Progress(Console(file=io.StringIO(), force_terminal=False)).finished(record(), STANDING)
    assert capsys.readouterr().out == f"{STANDING.line(record())}\n"
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == [
        f"INFO {STANDING.line(record())}",
        "DEBUG epoch    3  bpr 0.6931  reg 1.5e-07  813 MiB",
    ]


def test_what_another_process_logs_is_printed_without_its_loss_terms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.log"
    file.write_text("2020-01-01 00:00:00,000 INFO before\n")
    with following(file), file.open("a") as log:
        log.write("2020-01-01 00:00:01,000 DEBUG epoch    3  bpr 0.6931\n")
        log.write("2020-01-01 00:00:01,000 INFO epoch    3  DEBUG is a word\n")
    assert capsys.readouterr().out == "epoch    3  DEBUG is a word\n"


@pytest.mark.parametrize(
    ("schedule", "epoch", "used", "expected"),
    [
        (Schedule(100, 1, 20, 0), 30, 7, (14, 69)),
        (Schedule(100, 1, 20, 0), 95, 7, (4, 4)),
        (Schedule(100, 1, 20, 0), 30, 21, (0, 0)),  # training stops here
        (Schedule(100, 1, 20, 0), 99, 3, (0, 0)),
        (Schedule(100, 1, 2, 5), 1, 0, (6, 98)),  # epochs 5, 6 and 7 count
        (Schedule(100, 2, 1, 0), 3, 0, (4, 96)),  # validations in epochs 5 and 7
        (Schedule(100, 2, 1, 0), 4, 0, (3, 95)),
    ],
)
def test_epochs_that_are_left(schedule: Schedule, epoch: int, used: int, expected: tuple[int, int]) -> None:
    assert schedule.epochs_left(epoch, used) == expected


def test_without_a_terminal_nothing_is_drawn() -> None:
    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=False)).epoch(0, 2) as update:
        update({"bpr": 1.0})
    assert out.getvalue() == ""


def test_on_a_terminal_the_running_epoch_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    clock = iter([100.0, 100.0, 100.05, 100.2, 100.2])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress(Console(file=out, force_terminal=True, width=80))
    shown = []
    with progress.epoch(4, 7) as update:
        monkeypatch.setattr("rich.live.Live.update", lambda self, text: shown.append(text.plain))
        for value in (0.5, 0.25, 0.125):  # the second comes 0.05 s after the first
            update({"bpr": value})
    assert shown == ["epoch    4  batch 1 of 7  bpr 0.5", "epoch    4  batch 3 of 7  bpr 0.125"]


def test_auxiliary_steps_are_counted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = (100.0 + second for second in range(99))
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    shown: list[str] = []
    with Progress(Console(file=io.StringIO(), force_terminal=True, width=80)).epoch(4, 7) as update:
        monkeypatch.setattr("rich.live.Live.update", lambda self, text: shown.append(text.plain))
        update({"denoising": 0.5}, auxiliary=True)
        update({"denoising": 0.25}, auxiliary=True)
        update({"bpr": 0.125})
    assert shown == [
        "epoch    4  auxiliary step 1  denoising 0.5",
        "epoch    4  auxiliary step 2  denoising 0.25",
        "epoch    4  batch 1 of 7  bpr 0.125",
    ]
    with Progress(Console(file=io.StringIO())).epoch(4, 7) as update:
        update({"denoising": 0.5}, auxiliary=True)


def test_the_log_goes_to_screen_and_file_and_is_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = logging.getLogger("recbole_siger.x"), logging.getLogger("recbole.y")
    root, before = logging.getLogger(), (logging.getLogger().handlers[:], ours.parent.level)  # type: ignore[union-attr]  # never the root
    file = tmp_path / "run.log"
    with pytest.raises(RuntimeError), logging_to(file):  # noqa: PT012  # what is logged before counts
        ours.info("ours, %d", 1)
        theirs.warning("theirs")
        raise RuntimeError
    ours.info("after")
    assert capsys.readouterr().out == "ours, 1\n"
    lines = file.read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["INFO ours, 1", "WARNING theirs"]
    assert (root.handlers, ours.parent.level) == before  # type: ignore[union-attr]  # never the root


def test_without_a_file_only_the_screen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    handlers = len(logging.getLogger().handlers)
    with logging_to(None):
        assert len(logging.getLogger().handlers) == handlers
        logging.getLogger("recbole_siger").info("line")
    assert capsys.readouterr().out == "line\n"


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 2**20)])
def test_peak_memory_is_in_mib(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=300 * unit))
    monkeypatch.setattr(module, "resource", usage)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(module, "_STATUS", Path("nowhere"))
    assert peak_memory_mib() == peak_memory_mib(torch.device("cpu")) == 300.0


def test_peak_memory_is_not_that_of_the_parent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux hands a process the peak of its parent as ru_maxrss; what the kernel calls VmHWM is its own."""
    status = tmp_path / "status"
    status.write_text("VmPeak:\t  999 kB\nVmHWM:\t    5120 kB\nVmRSS:\t 1 kB\n")
    monkeypatch.setattr(module, "_STATUS", status)
    assert peak_memory_mib() == 5.0
    status.write_text("no such line\n")
    assert peak_memory_mib() > 5.0


def test_peak_memory_of_a_gpu_is_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5 * 2**20)
    assert peak_memory_mib(torch.device("cuda")) == 5.0
