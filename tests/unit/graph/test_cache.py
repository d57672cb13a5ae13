"""A graph comes from its file exactly as it was built, and never after anything has changed."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recbole_siger import cli
from recbole_siger.common import tensor_files
from recbole_siger.graph import cache as graph_cache
from recbole_siger.graph.cache import GraphCache
from recbole_siger.graph.knn import semantic_graph

FEATURES = torch.randn(23, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def builds(tmp_path: Path) -> Callable[..., bool]:
    """Ask for a graph; return whether it was built, after a comparison with the builder's."""

    def ask(features: Tensor = FEATURES, kind: str = "semantic", **arguments: int) -> bool:
        calls = []

        def build(**given: Tensor) -> Tensor:
            calls.append(given)
            return semantic_graph(**given)

        arguments = {"k": 3, **arguments}
        graph = GraphCache(tmp_path).cached(kind, build, {"features": features}, arguments)
        expected = semantic_graph(features, **arguments)
        assert graph.is_coalesced()
        assert graph.shape == expected.shape
        assert torch.equal(graph.indices(), expected.indices())
        assert torch.equal(graph.values(), expected.values())
        return bool(calls)

    return ask


def rewrite(path: Path, change: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """Write other tensors with a right checksum."""
    kept = load_file(path)
    index, value = change(kept["indices"], kept["values"])
    checksum = graph_cache._checksum(index, value)
    save_file({"indices": index, "values": value}, path, {"shape": "[23, 23]", "sha256": checksum})


def only_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "graphs").iterdir()
    return path


def test_the_second_time_comes_from_the_file(builds) -> None:
    assert builds()
    assert not builds()
    assert not builds(FEATURES.clone())


def test_every_change_builds_again(builds, monkeypatch: pytest.MonkeyPatch) -> None:
    builds()
    changed = FEATURES.clone()
    changed[22, 6] = torch.nextafter(changed[22, 6], torch.tensor(9.0))
    assert builds(changed)
    assert builds(FEATURES.double())
    assert builds(FEATURES[:22])
    assert builds(FEATURES.reshape(7, 23))
    assert builds(k=4)
    assert builds(chunk_size=1024)
    assert builds(kind="other")
    monkeypatch.setattr(graph_cache, "_code_version", lambda: "other sources")
    assert builds()
    assert not builds()


def test_the_code_version_follows_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "knn.py"
    monkeypatch.setattr(graph_cache, "__file__", str(tmp_path / "cache.py"))
    versions = set()
    for text in ("a = 1", "a = 2", "a = 1"):
        source.write_text(text)
        versions.add(graph_cache._code_version.__wrapped__())
    assert len(versions) == 2


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def out_of_range(path: Path) -> None:
    tensors = load_file(path)
    tensors["indices"][0, 0] = 99
    save_file(tensors, path, {"shape": "[23, 23]", "sha256": graph_cache._checksum(*tensors.values())})


DAMAGES = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "empty": lambda path: path.write_bytes(b""),
    "noise": lambda path: path.write_bytes(b"\xff" * 500),
    "bit": flip_a_bit,
    "foreign": lambda path: save_file({"x": torch.ones(2)}, path),
    "no_metadata": lambda path: save_file(load_file(path), path),
    "text_metadata": lambda path: save_file(load_file(path), path, {"shape": "[" * 9999, "sha256": "x"}),
    "flat_indices": lambda path: rewrite(path, lambda index, value: (index[0].contiguous(), value)),
    "fewer_values": lambda path: rewrite(path, lambda index, value: (index, value[1:].contiguous())),
    "no_checksum": lambda path: save_file(load_file(path), path, {"shape": "[23, 23]"}),
    "out_of_range": out_of_range,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_built_again_with_a_warning(damage, builds, tmp_path: Path, caplog) -> None:
    builds()
    damage(only_file(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert builds()
    assert "the graph is built again" in caplog.text
    assert str(only_file(tmp_path)) in caplog.text
    assert not builds()


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        SafetensorError("Error while serializing: of another kind"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
    ],
)
def test_a_full_disk_is_a_warning(
    error: Exception, builds, tmp_path: Path, caplog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(tensor_files, "save_file", fail)
    with caplog.at_level(logging.WARNING):
        assert builds()
    assert "not written (" in caplog.text
    assert not any((tmp_path / "graphs").iterdir())


def test_files_can_be_read_by_whom_the_umask_allows(builds, tmp_path: Path) -> None:
    builds()
    (tmp_path / "new").touch()
    assert only_file(tmp_path).stat().st_mode & 0o777 == (tmp_path / "new").stat().st_mode & 0o777


@pytest.mark.parametrize("cache_dir", [None, "~nobody-of-this-name/cache"])
def test_a_user_without_a_home_is_a_warning(
    cache_dir: str | None, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def fail(*_: Any) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", fail)
    with caplog.at_level(logging.WARNING):
        cache = GraphCache(cache_dir)
    assert "graphs are not stored" in caplog.text
    graph = cache.cached("semantic", semantic_graph, {"features": FEATURES}, {"k": 3})
    assert torch.equal(graph.to_dense(), semantic_graph(FEATURES, k=3).to_dense())


def test_a_folder_that_cannot_be_read_is_a_warning(
    builds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    """As root reads everything, the refusal is put into the place of the system's."""

    def refuse(path: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    with caplog.at_level(logging.WARNING):
        assert builds()
    assert "Permission denied" in caplog.text


def test_old_leftovers_of_kills_are_deleted(builds, tmp_path: Path) -> None:
    builds()
    old, new = (tmp_path / "graphs" / f".semantic-a.{n}0000000.tmp.safetensors" for n in (1, 2))
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    builds(k=5)
    assert not old.exists()
    assert new.exists()


def test_a_folder_that_cannot_be_written_is_a_warning(builds, tmp_path: Path, caplog) -> None:
    (tmp_path / "graphs").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert builds()
    assert "name another folder by cache_dir" in caplog.text


def test_none_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cache = GraphCache("none")
    for _ in range(2):
        cache.cached("semantic", semantic_graph, {"features": FEATURES}, {"k": 3})
    assert cache.folder is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_the_users_folder(platform: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert GraphCache().folder == tmp_path / "xdg/recbole_siger/graphs"
    monkeypatch.delenv("XDG_CACHE_HOME")
    caches = {"linux": ".cache", "darwin": "Library/Caches"}[platform]
    assert GraphCache().folder == tmp_path / caches / "recbole_siger/graphs"


def test_list_and_clear(builds, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    builds()
    builds(k=5)
    only = sorted((tmp_path / "graphs").iterdir())
    only[0].write_bytes(b"damaged")
    (tmp_path / "graphs" / "notes.txt").write_text("not a graph")
    option = f"--cache_dir={tmp_path}"
    assert cli.main(["cache", "ls", option]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == ["semantic", "semantic", "2"]
    assert listed[0].split()[1] == "damaged"
    assert listed[1].split()[1:4] in (["23x23", "69", "edges"], ["23x23", "115", "edges"])
    assert cli.main(["cache", "clear", option]) == 0
    assert capsys.readouterr().out.startswith("2 graphs deleted, 0.0 MiB")
    assert [path.name for path in (tmp_path / "graphs").iterdir()] == ["notes.txt"]
    assert cli.main(["cache", "ls", option]) == 0
    assert capsys.readouterr().out.startswith("0 graphs, 0.0 MiB, in ")


def test_of_two_that_clear_at_once_the_second_deletes_the_rest(
    builds: Callable[..., bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for k in (1, 2):
        builds(k=k)
    first, _ = sorted((tmp_path / "graphs").iterdir())
    open_file = graph_cache.safe_open

    def delayed(path: Path, framework: str) -> Any:
        first.unlink(missing_ok=True)
        return open_file(path, framework)

    monkeypatch.setattr(graph_cache, "safe_open", delayed)
    assert GraphCache(tmp_path).clear().startswith("1 graphs deleted")
    assert not list((tmp_path / "graphs").iterdir())


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "ls|clear is missing"),
        (["rm"], "'rm' is not one of 'ls', 'clear'"),
        (["ls", "clear"], "Got unexpected extra argument (clear)"),
        (["ls", "--all=1"], "cache has no option --all"),
    ],
)
def test_misuse_is_one_line(words: list[str], problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["cache", *words]) == 2
    assert capsys.readouterr().err == (
        f"error: command line: {problem}; write `recbole-siger cache ls|clear [--cache_dir=FOLDER]`\n"
    )
    assert cli.main(["cache", "clear", "--cache_dir=none"]) == 2
    assert "--cache_dir=none stores no graphs" in capsys.readouterr().err


def test_a_file_is_no_folder_of_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("not a graph")
    for given in (file, file / "below"):
        assert cli.main(["cache", "ls", f"--cache_dir={given}"]) == 2
        problem = f"--cache_dir: {file} is a file, not a folder; choose another name"
        assert capsys.readouterr().err == f"error: command line: {problem}\n"
