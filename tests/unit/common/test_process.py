"""Environment variables are restored; a waiting policy is set for torch unless the user has one."""

from __future__ import annotations

import ctypes
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_siger.common.process import restored_environment, return_free_memory, wait_briefly

ROOT = Path(__file__).parents[3]
POLICIES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")


def test_variables_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECBOLE_SIGER_A", "1")
    monkeypatch.delenv("RECBOLE_SIGER_B", raising=False)
    with pytest.raises(RuntimeError), restored_environment("RECBOLE_SIGER_A", "RECBOLE_SIGER_B"):  # noqa: PT012  # what is set before it counts
        os.environ.update({"RECBOLE_SIGER_A": "2", "RECBOLE_SIGER_B": "3"})
        raise RuntimeError
    assert os.environ["RECBOLE_SIGER_A"] == "1"
    assert "RECBOLE_SIGER_B" not in os.environ
    with restored_environment("RECBOLE_SIGER_A"):
        del os.environ["RECBOLE_SIGER_A"]
    assert os.environ["RECBOLE_SIGER_A"] == "1"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "5"}, {"GOMP_SPINCOUNT": "5"}),
        ({"KMP_BLOCKTIME": "5"}, {"KMP_BLOCKTIME": "5"}),
    ],
)
def test_a_policy_is_set_unless_the_user_has_one(
    given: dict[str, str], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in POLICIES:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with restored_environment(*POLICIES):
        wait_briefly()
        assert {name: os.environ[name] for name in POLICIES if name in os.environ} == expected


COMMAND = """
import os, sys
import recbole_siger.cli
assert "torch" not in sys.modules
before = os.environ.get("GOMP_SPINCOUNT")
recbole_siger.cli.main(["models"])
print(before, os.environ["GOMP_SPINCOUNT"])
"""


def test_a_command_sets_the_policy_and_an_import_does_not() -> None:
    environment = {key: value for key, value in os.environ.items() if key not in POLICIES}
    done = subprocess.run(
        [sys.executable, "-c", COMMAND],
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "None 1000"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back on request")
def test_free_memory_between_blocks_in_use_is_returned() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20

    blocks = [ctypes.create_string_buffer(b"x" * 65_000, 65_536) for _ in range(1024)]
    kept = blocks[::16]
    before = resident()
    del blocks
    return_free_memory()
    assert resident() < before - 40
    assert all(block.raw[:64_999:1000] == b"x" * 65 for block in kept)
