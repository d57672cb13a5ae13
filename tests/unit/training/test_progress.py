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

from recbole_siger.common.log import logging_to
from recbole_siger.training import progress as module
from recbole_siger.training.progress import EpochRecord, Progress, peak_memory_mib


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


def test_the_line_of_an_epoch() -> None:
    line = record().line("recall@20", 0.13)
    assert line == (
        "epoch    3  bpr 0.6931  reg 1.5e-07  valid recall@20 0.1235  best 0.1300 at 2  1.75 s  813 MiB"
    )


def test_an_epoch_without_validation_has_no_score() -> None:
    assert record(valid=None, best_epoch=None).line("recall@20", None) == (
        "epoch    3  bpr 0.6931  reg 1.5e-07  1.75 s  813 MiB"
    )
    assert "best" not in record().line("recall@20", None)


def test_without_a_terminal_nothing_is_drawn(caplog: pytest.LogCaptureFixture) -> None:
    out = io.StringIO()
    progress = Progress(Console(file=out, force_terminal=False))
    with progress.epoch(0, 2) as update:
        update({"bpr": 1.0})
    with caplog.at_level(logging.INFO, logger="recbole_siger"):
        progress.finished(record(), "recall@20", 0.13)
    assert out.getvalue() == ""
    assert caplog.messages == [record().line("recall@20", 0.13)]


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
