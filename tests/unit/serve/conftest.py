"""Small run folders with drawn vectors, and a client of a server that answers from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.evaluation.ranking import ItemLists
from recbole_siger.options.command import command_params
from recbole_siger.runs.folder import RunFolder
from recbole_siger.runs.scoring import SEEN_FILE, Scoring, pack_lists
from recbole_siger.serve.params import ServeParams

N_USERS, N_ITEMS, WIDTH = 29, 23, 7  # without the padding
TOKEN = "a-token-of-the-tests"


def params(**changes: Any) -> ServeParams:
    """Return the default options with changes."""
    return replace(command_params(ServeParams, "serve", {}), **changes)


def draw_run(folder: Path, seed: int = 3, model: str = "LightGCN", kind: str = "embeddings") -> Path:
    """Write a finished run: user u3 has the training items i3, i4 and i5 and the validation item i6.

    Item i1 is a training item of every user. Items with an odd number have a title.
    """
    folder.mkdir(parents=True)
    run, generator = RunFolder(folder), torch.Generator().manual_seed(seed)
    run.write_config({"model": model, "dataset": "drawn", "save_embeddings": True})
    run.write_ids(
        ["[PAD]", *(f"u{n}" for n in range(1, N_USERS + 1))],
        ["[PAD]", *(f"i{n}" for n in range(1, N_ITEMS + 1))],
    )
    users = np.repeat(np.arange(1, N_USERS + 1), 4)
    items = (users - 1 + np.tile([0, 1, 2, 0], N_USERS)) % N_ITEMS + 1
    items[3::4] = 1
    train = ItemLists.from_pairs(users, items, N_USERS + 1, N_ITEMS + 1)
    own = np.arange(1, N_USERS + 1)
    valid = ItemLists.from_pairs(own, (own + 2) % N_ITEMS + 1, N_USERS + 1, N_ITEMS + 1)
    run.write_tensors(SEEN_FILE, {**pack_lists("train", train), **pack_lists("valid", valid)})
    tensors = {
        name: torch.randn(n + 1, WIDTH, generator=generator)
        for name, n in (("user", N_USERS), ("item", N_ITEMS))
    }
    if kind == "item_score":
        tensors = {"score": torch.randn(N_ITEMS + 1, generator=generator)}
    Scoring(kind, model, tensors, N_USERS + 1, N_ITEMS + 1).write(run)  # type: ignore[arg-type]  # a kind
    rows = ["item_id\ttitle", *(f"i{n}\t<b>Thing</b> {n}" for n in range(1, N_ITEMS + 1, 2))]
    (folder / "items.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "results.json").write_text("{}\n", encoding="utf-8")
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return draw_run(tmp_path / "drawn-run")


Client = Callable[..., Any]


@pytest.fixture
def make_client(run_dir: Path) -> Iterator[Client]:
    """Return what makes a client of a server with changed options; ``client.server`` is the server."""
    pytest.importorskip("fastapi", reason="needs the extra `serve`")
    testclient = pytest.importorskip("fastapi.testclient", reason="needs httpx, of the extra `test`")
    from recbole_siger.serve.app import make_server
    from recbole_siger.serve.service import Service

    servers = []

    def make(source: Path = run_dir, token: str | None = None, **changes: Any) -> Any:
        server = make_server(Service(source, params(**changes)), token)
        servers.append(server)
        client = testclient.TestClient(server.guard, base_url="http://127.0.0.1:8000")
        client.server = server
        return client

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def client(make_client: Client) -> Any:
    return make_client()
