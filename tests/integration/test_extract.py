"""An extraction that is killed with SIGKILL goes on; Ray gives the same bytes, and may take over."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recbole_siger import cli
from recbole_siger.common.tables import open_table
from recbole_siger.errors import UserError
from recbole_siger.extract import local
from recbole_siger.extract.encoder import EncoderSpec
from recbole_siger.extract.job import Job, encode_shard
from recbole_siger.extract.text import TextSource

N_ITEMS, SHARD = 211, 17
N_SHARDS = 13

pytestmark = pytest.mark.xdist_group("ray")

# The command, in a process that kills itself instead of encoding its eighth shard.
KILLED = """
import os, signal, sys
from recbole_siger import cli
from recbole_siger.extract import local
encode, seen = local.encode_shard, []
def dying(job, encoder, number):
    if len(seen) == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    seen.append(number)
    return encode(job, encoder, number)
local.encode_shard = dying
cli.main(sys.argv[1:])
"""


@pytest.fixture
def items(tmp_path: Path) -> Path:
    rng = np.random.default_rng(11)
    words = [f"word{i}" for i in range(53)]
    lines = ["item_id,title", *(f"i{i},{' '.join(rng.choice(words, 7))}" for i in range(N_ITEMS))]
    lines[30] = "i29,"  # no text
    path = tmp_path / "items.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def words(items: Path, data_path: str, *more: str) -> list[str]:
    return [
        *("extract", f"--items={items}", "--dataset=shop", "--text-model=tfidf", "--text-cols=title"),
        *("--tfidf_dim=7", f"--shard_size={SHARD}", f"--data_path={items.parent / data_path}", *more),
    ]


def files_of(items: Path, data_path: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (items.parent / data_path / "shop").iterdir()}


def kill_in_the_middle(items: Path, data_path: str) -> Path:
    """Run the command until it is killed; return the folder of its shards."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, *words(items, data_path)]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=600)
    assert done.returncode == -signal.SIGKILL
    assert not (items.parent / data_path / "shop" / "shop.text.npy").exists()
    (shards,) = (items.parent / data_path / "shop" / ".shop.text.shards").iterdir()
    assert len(list(shards.iterdir())) == 7
    return shards


def test_sigkill_costs_one_shard(items: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli.main(words(items, "whole")) == 0
    shards = kill_in_the_middle(items, "killed")
    before = {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}
    again: list[int] = []

    def encode(job: Job, encoder: Any, number: int) -> Any:
        again.append(number)
        assert {path.name: path.stat().st_mtime_ns for path in shards.iterdir()}.items() >= before.items()
        return encode_shard(job, encoder, number)

    monkeypatch.setattr(local, "encode_shard", encode)
    assert cli.main(words(items, "killed")) == 0
    assert again == list(range(7, N_SHARDS))
    assert files_of(items, "killed") == files_of(items, "whole")


# ---- on Ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(
        "local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, logging_level="ERROR",
        log_to_driver=False,
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_gives_the_same_bytes(items: Path) -> None:
    assert cli.main(words(items, "here")) == 0
    assert cli.main(words(items, "ray", "--engine=ray", "--workers=2")) == 0
    assert files_of(items, "ray") == files_of(items, "here")


@pytest.mark.slow
def test_the_command_starts_a_ray_of_its_own(items: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "recbole_siger.cli", *words(items, "ray", "--engine=ray")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert f"text: {N_SHARDS} of {N_SHARDS} shards, {N_ITEMS} items" in done.stdout
    assert cli.main(words(items, "here")) == 0
    assert files_of(items, "ray") == files_of(items, "here")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_takes_over_what_was_killed_here(items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(items, "whole")) == 0
    kill_in_the_middle(items, "killed")
    assert cli.main(words(items, "killed", "--engine=ray", "--workers=2")) == 0
    out = capsys.readouterr().out
    assert "text: 7 of 13 shards exist already\n" in out
    assert "text: 6 of 6 shards" in out
    assert files_of(items, "killed") == files_of(items, "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_ray_waits_for_whoever_writes(tmp_path: Path) -> None:
    """60 shards of 4 MB beside an object store of 100 MB: few are made before they are asked for."""
    from recbole_siger.extract.ray_engine import encode_on_ray

    (tmp_path / "made").mkdir()

    class Wide:  # within the function, so that it is sent to the workers by value
        dim, fitted, made = 1000, True, str(tmp_path / "made")

        def encode(self, payloads: Iterator[str]) -> np.ndarray:
            rows = np.ones((len(list(payloads)), self.dim), np.float32)
            with open(f"{self.made}/{time.time_ns()}", "w"):
                return rows

    path = tmp_path / "items.csv"
    path.write_text("item_id,title\n" + "".join(f"i{i},x\n" for i in range(60_000)))
    spec = EncoderSpec("text", "wide", batch_size=1, device="cpu", max_tokens=None, tfidf_dim=1)
    table = open_table(path, "item_id", ["title"], step=1000)
    job = Job(table, TextSource(("title",)), spec, normalize=False, threads=None)
    encoder: Any = Wide()
    ahead, numbers = 0, set()
    for n_taken, shard in enumerate(encode_on_ray(job, encoder, range(60), workers=2), start=1):
        time.sleep(0.1)
        ahead = max(ahead, len(list((tmp_path / "made").iterdir())) - n_taken)
        numbers.add(shard.number)
    assert numbers == set(range(60))
    assert ahead < 20


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_too_many_workers_are_one_line(items: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(items, "many", "--engine=ray", "--workers=3")) == 2
    complaint = (
        "--workers=3: a process requires 1 CPU on one node, and there is room for 2 of 3 (Ray: 1 node,"
    )
    assert complaint in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_failing_worker_is_one_line(items: Path) -> None:
    from recbole_siger.extract.ray_engine import encode_on_ray

    table = open_table(items, "item_id", ["title"], step=SHARD)
    spec = EncoderSpec("image", "none", batch_size=1, device="cpu", max_tokens=None, tfidf_dim=1)
    job = Job(table, TextSource(("title",)), spec, normalize=False, threads=None)
    here: Any = SimpleNamespace(fitted=False)  # so that the worker loads the encoder, and cannot
    with pytest.raises(
        UserError, match=r"engine=ray: a worker failed: .*unknown encoder.*are kept"
    ) as caught:
        list(encode_on_ray(job, here, [0], workers=1))
    assert "\n" not in str(caught.value)
