"""Which run is served, and what is read of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from recbole_siger.errors import UserError
from recbole_siger.serve.source import find_run, identity_of, load_run, read_image
from tests.unit.serve.conftest import N_ITEMS, draw_run


def finish(run: Path, second: int) -> Path:
    """Let a run be finished at a second of its own."""
    os.utime(run / "results.json", (second, second))
    return run


def test_a_run_folder_is_itself_and_a_link_is_followed(run_dir: Path, tmp_path: Path) -> None:
    assert find_run(run_dir) == run_dir.resolve()
    (tmp_path / "current").symlink_to(run_dir)
    assert find_run(tmp_path / "current") == run_dir.resolve()


def test_of_a_folder_of_runs_the_newest_complete_run_is_taken(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    old, new, unfinished, without = (
        draw_run(runs / name) for name in ("z-old", "a-new", "unfinished", "without")
    )
    finish(old, 1_000)
    finish(new, 2_000)
    finish(without, 3_000)
    (unfinished / "results.json").unlink()
    (without / "embeddings.safetensors").unlink()
    finish(draw_run(runs / ".hidden"), 4_000)
    assert find_run(runs) == new.resolve()
    finish(old, 5_000)
    assert find_run(runs) == old.resolve()


@pytest.mark.parametrize("content", ["nothing", "file", "missing"])
def test_what_has_no_run_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    if content == "nothing":
        place.mkdir()
    elif content == "file":
        place.write_text("x")
    with pytest.raises(UserError, match=rf"^{place}: "):
        find_run(place)


def test_another_run_at_the_same_place_has_another_identity(run_dir: Path) -> None:
    before = identity_of(run_dir)
    assert identity_of(run_dir) == before
    finish(run_dir, 17)
    assert identity_of(run_dir) != before


def test_titles_counts_and_popularity(run_dir: Path) -> None:
    loaded = load_run(run_dir)
    assert loaded.titles["i3"] == "<b>Thing</b> 3"
    assert "i4" not in loaded.titles
    assert loaded.counts[1] == 29  # of every user
    order = loaded.popular.tolist()
    assert order[0] == 1
    assert sorted(order) == list(range(1, N_ITEMS + 1))
    assert order == sorted(order, key=lambda item: (-loaded.counts[item], item))


def test_pictures_are_plain_files_called_like_an_item(run_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("i1.png", "i2.JPG", "i3.svg", "i4.txt", "zz.png", "i5"):
        (folder / name).write_bytes(b"picture")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "i6.png").symlink_to(tmp_path / "secret.png")
    (folder / "i7.png").mkdir()
    os.mkfifo(folder / "i8.png")
    loaded = load_run(run_dir, folder)
    assert {item: path.name for item, path in loaded.images.items()} == {"i1": "i1.png", "i2": "i2.JPG"}
    assert read_image(loaded.images["i1"]) == b"picture"
    assert load_run(run_dir).images == {}
    (run_dir / "images").mkdir()
    (run_dir / "images" / "i9.webp").write_bytes(b"own")
    assert list(load_run(run_dir).images) == ["i9"]
    with pytest.raises(UserError, match=r"--images=.*: no such folder"):
        load_run(run_dir, tmp_path / "nowhere")


def test_a_picture_that_became_something_else_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "a.png").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").mkdir()
    assert [read_image(tmp_path / f"{name}.png") for name in "abcd"] == [None] * 4
    monkeypatch.setattr("recbole_siger.serve.source.MAX_IMAGE_BYTES", 5)
    assert read_image(tmp_path / "secret") is None
