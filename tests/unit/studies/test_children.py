"""Children end when they are told to, and when their parent is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from recbole_siger.common.parent import PARENT_VARIABLE
from recbole_siger.studies import children as module
from recbole_siger.studies.children import Children, running_children

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True)"


def start_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a child run its words as Python code."""

    def start(words: Any, complaints: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-S", "-c", *words], stdout=subprocess.PIPE, stderr=complaints, text=True
        )

    monkeypatch.setattr(module, "_start", start)


def test_all_children_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    start_python(monkeypatch)
    children, started = Children(), threading.Semaphore(0)
    code = "import time; print(1, flush=True); time.sleep(300)"
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(children.run, [code], lambda line: started.release()) for _ in range(3)]
        for _ in futures:
            assert started.acquire(timeout=60)
        children.stop()
        assert [future.result(timeout=60)[0] for future in futures] == [-signal.SIGTERM] * 3
        assert pool.submit(children.run, [code], print).result(timeout=60) == (130, "interrupted")


def test_a_child_that_ignores_sigterm_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    start_python(monkeypatch)
    monkeypatch.setattr(module, "_PATIENCE", 0.3)
    children, started = Children(), threading.Semaphore(0)
    with ThreadPoolExecutor(1) as pool:
        code = f"{_STUBBORN}; time.sleep(300)"
        future = pool.submit(children.run, [code], lambda line: started.release())
        assert started.acquire(timeout=60)
        children.stop()
        assert future.result(timeout=60)[0] == -signal.SIGKILL


def test_stopping_while_a_child_ends_by_itself() -> None:
    """The thread of a child that ends removes it from the set that `stop` goes through."""
    children, terminated = Children(), []

    class Ending:
        def terminate(self) -> None:
            terminated.append(self)
            children._running.discard(self)  # type: ignore[arg-type]  # stands for a process

        def wait(self, timeout: float) -> int:
            return 0

    children._running = {Ending() for _ in range(3)}  # type: ignore[misc]
    children.stop()
    assert len(terminated) == 3
    assert children._running == set()


def test_a_child_ends_when_its_lines_cannot_be_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    start_python(monkeypatch)
    children = Children()

    def broken(line: str) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        children.run(["import time; print(1, flush=True); time.sleep(300)"], broken)
    assert children._running == set()


def test_a_real_command_returns_its_code_and_its_complaint() -> None:
    lines: list[str] = []
    code, complaint = Children().run(["no-such-command"], lines.append)
    assert (code, lines) == (2, [])
    assert complaint.startswith("error: ")


def test_sigterm_is_an_interrupt_within_the_block_alone() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def be_terminated() -> None:
        with running_children():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        be_terminated()
    assert signal.getsignal(signal.SIGTERM) is before


_CHILD = (
    "from recbole_siger.common.parent import stop_with_parent; stop_with_parent();"
    "import os, time; print(os.environ.get('RECBOLE_SIGER_PARENT'), flush=True); time.sleep(300)"
)
_PARENT = (
    "import os, subprocess, sys;"
    "environment = {**os.environ, sys.argv[2]: str(os.getpid())};"
    "subprocess.run([sys.executable, '-c', sys.argv[1]], env=environment)"
)


def test_a_child_ends_when_its_parent_is_killed() -> None:
    command = [sys.executable, "-c", _PARENT, _CHILD, PARENT_VARIABLE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "None\n"  # the child's children do not see the variable
        time.sleep(0.5)
        assert parent.poll() is None  # a living parent ends nothing
        parent.kill()
        began = time.monotonic()
        assert parent.stdout.read() == ""  # the end of the pipe: the child has ended
        assert time.monotonic() - began < 60


def test_a_process_without_such_a_parent_goes_on() -> None:
    environment = {key: value for key, value in os.environ.items() if key != PARENT_VARIABLE}
    code = _CHILD.replace("time.sleep(300)", "time.sleep(0.5); print('done')")
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout == "None\ndone\n"
