"""Features are joined by item token; everything doubtful is refused in words."""

import re
import tempfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from recbole_siger.data import features as module
from recbole_siger.data.features import (
    coverage_line,
    fill_missing,
    has_feature,
    load_and_count,
    load_features,
    open_features,
    read_blocks,
)
from recbole_siger.errors import UserError

TOKENS = ["[PAD]", "a", "b", "c", "d"]


def write(folder: Path, array: Any, ids: list[str] | None) -> Path:
    path = folder / "toy.image.npy"
    np.save(path, array)
    if ids is not None:
        path.with_suffix(".ids").write_bytes("".join(f"{token}\n" for token in ids).encode())
    return path


def refusal(path: Path, tokens: list[str] = TOKENS, **options: bool) -> str:
    with pytest.raises(UserError) as caught:
        load_features(path, tokens, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert "toy.image" in message
    return message


def test_known_answer(tmp_path: Path) -> None:
    path = write(tmp_path, np.array([[3.0, 4.0], [9.0, 9.0], [1.0, 2.0]]), ["c", "foreign", "a"])
    features = load_features(path, TOKENS)
    assert features.dtype == torch.float32
    assert features.tolist() == [[0, 0], [1, 2], [0, 0], [3, 4], [0, 0]]
    assert load_features(path, np.array(TOKENS)).equal(features)  # RecBole keeps its tokens in an array


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_float_types_and_layouts(tmp_path: Path, dtype: str, order: Any) -> None:
    array = np.arange(8).reshape(4, 2).astype(dtype, order=order)
    features = load_features(write(tmp_path, array, ["a", "b", "c", "d"]), TOKENS)
    assert features[1:].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@settings(max_examples=50, deadline=None)
@given(data=st.data(), n_rows=st.integers(1, 11), dim=st.integers(1, 5), block=st.integers(1, 13))
def test_row_order_and_block_size_change_nothing(
    data: st.DataObject, n_rows: int, dim: int, block: int
) -> None:
    array = data.draw(
        hnp.arrays(np.float64, (n_rows, dim), elements=st.floats(-(2**99), 2**99, width=32)), "array"
    )
    ids = data.draw(
        st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1), unique=True,
                 min_size=n_rows, max_size=n_rows), "ids",
    )  # fmt: skip
    ids = [f"t{token}" for token in ids]
    tokens = [
        "[PAD]",
        *data.draw(st.permutations(ids), "tokens")[: data.draw(st.integers(1, n_rows))],
        "absent",
    ]
    order = data.draw(st.permutations(range(n_rows)), "order")
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        first = load_features(write(Path(folder), array, ids), tokens)
        patch.setattr(module, "BLOCK_ELEMENTS", block)
        second = load_features(write(Path(folder), array[order], [ids[row] for row in order]), tokens)
    assert first.equal(second)
    assert not first[[0, -1]].any()
    rows = dict(zip(ids, array.astype(np.float32), strict=True))
    for token, row in zip(tokens[1:-1], first[1:-1], strict=True):
        assert np.array_equal(row.numpy(), rows[token])


def test_ids_keep_spaces_and_lose_windows_line_ends_and_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, np.array([[1.0], [2.0]]), None)
    path.with_suffix(".ids").write_bytes("\ufeffa b\r\n c".encode())
    assert load_features(path, ["[PAD]", " c", "a b"]).tolist() == [[0], [2], [1]]


def test_an_id_that_spells_padding_fills_no_padding_row(tmp_path: Path) -> None:
    path = write(tmp_path, np.ones((2, 3)), ["[PAD]", "a"])
    assert not load_features(path, TOKENS)[0].any()
    assert "'[PAD]'" in refusal(path, strict_ids=True)


def test_missing_file(tmp_path: Path) -> None:
    assert "no such feature file; put a .npy file" in refusal(tmp_path / "toy.image.npy")


@pytest.mark.parametrize("content", [b"", b"hello world", b"PK\x03\x04 archive"])
def test_not_npy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "toy.image.npy"
    path.write_bytes(content)
    message = refusal(path)
    assert "is not a .npy file" in message
    assert "np.save" in message


@pytest.mark.parametrize("keep", [7, 60, 200])
def test_cut_short(tmp_path: Path, keep: int) -> None:
    path = write(tmp_path, np.ones((4, 5)), ["a", "b", "c", "d"])
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(path)
    assert f"cut short ({keep} bytes)" in message
    assert "download it again" in message


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, np.array([[None]]), ["a"]))
    assert "need pickle" in message
    assert "save a float array" in message


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", "<U3", "longdouble"])
def test_other_dtypes(tmp_path: Path, dtype: str) -> None:
    message = refusal(write(tmp_path, np.ones((1, 2)).astype(dtype), ["a"]))
    assert f"dtype is {np.dtype(dtype)}" in message
    assert "astype('float32')" in message


@pytest.mark.parametrize("shape", [(), (4,), (4, 1, 2), (4, 0)])
def test_other_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    message = refusal(write(tmp_path, np.ones(shape), list("abcd")))
    assert f"shape is {shape}; it must be (items, dimensions)" in message


def test_number_of_ids(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, np.ones((3, 2)), ["a", "b"]))
    assert "toy.image.ids: 2 ids for the 3 rows of toy.image.npy; write one id a line" in message


def test_repeated_ids_name_five(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, np.ones((12, 2)), list("abcdef") * 2))
    assert "repeated ids 'a', 'b', 'c', 'd', 'e', …; keep one row" in message


def test_ids_that_are_not_utf8(tmp_path: Path) -> None:
    path = write(tmp_path, np.ones((1, 2)), None)
    path.with_suffix(".ids").write_bytes(b"a\xff")
    assert "is not UTF-8 (byte 1); save it as UTF-8" in refusal(path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_not_finite(tmp_path: Path, value: float) -> None:
    array = np.ones((4, 3))
    array[[1, 2], 2] = value
    message = refusal(write(tmp_path, array, ["d", "c", "b", "a"]))
    assert "NaN or infinite values (as float32) for items 'c', 'b'; extract their features again" in message


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux says what a process holds of a file")
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_read_file_leaves_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: Literal["C", "F"]
) -> None:
    table = np.random.default_rng(3).standard_normal((2053, 257)).astype(np.float32)
    path = write(tmp_path, np.asarray(table, order=order), None)
    monkeypatch.setattr(module, "BLOCK_ELEMENTS", 101 * 257)
    array, found = open_features(path), []
    for start, block in read_blocks(path, array, range(2053)):
        found.append(block)
        assert start == 101 * (len(found) - 1)
    assert np.array_equal(np.concatenate(found), table)
    maps = Path("/proc/self/smaps").read_text().split(f"{path}\n")
    assert len(maps) == 2
    resident = re.search(r"^Rss: +(\d+) kB", maps[1], flags=re.M)
    assert resident is not None
    assert int(resident[1]) < 100
    assert np.array_equal(array, table)  # the file can be read again


def test_foreign_ids_name_five_and_count(tmp_path: Path) -> None:
    path = write(tmp_path, np.ones((8, 1)), ["a", *"pqrstuv"])
    assert load_features(path, TOKENS)[:, 0].tolist() == [0, 1, 0, 0, 0]
    message = refusal(path, strict_ids=True)
    assert "7 ids are not items of the dataset: 'p', 'q', 'r', 's', 't', …; remove their rows" in message


@pytest.mark.parametrize("n_rows", [0, 2])
def test_no_id_in_common(tmp_path: Path, n_rows: int) -> None:
    message = refusal(write(tmp_path, np.ones((n_rows, 1)), ["x", "y"][:n_rows]))
    assert f"none of its {n_rows} ids" in message
    assert "'a', 'b', 'c', 'd'" in message
    assert "write the raw item tokens" in message


def test_row_order_only_on_request(tmp_path: Path) -> None:
    path = write(tmp_path, np.array([[5.0], [6.0], [7.0]]), None)
    tokens = ["[PAD]", "2", "0"]
    message = refusal(path, tokens)
    assert "toy.image.ids: no such file; write the item of each row of toy.image.npy" in message
    assert "assume_order" in message
    assert load_features(path, tokens, assume_order=True).tolist() == [[0], [7], [5]]


@pytest.mark.parametrize("token", ["3", "-1", "x", "1.0", "01", "²", ""])
def test_row_order_needs_row_numbers(tmp_path: Path, token: str) -> None:
    message = refusal(write(tmp_path, np.ones((3, 1)), None), ["[PAD]", "0", token], assume_order=True)
    assert "integers from 0 to 2" in message
    assert f"the dataset has item {token!r}; write toy.image.ids instead" in message


def test_ids_come_before_assumed_order(tmp_path: Path) -> None:
    path = write(tmp_path, np.array([[5.0], [6.0]]), ["1", "0"])
    assert load_features(path, ["[PAD]", "0", "1"], assume_order=True).tolist() == [[0], [6], [5]]


def test_coverage_counts_neither_padding_nor_zero_rows() -> None:
    features = torch.zeros(1683, 1280)
    features[1:1664, 7] = 1.0
    assert coverage_line("image", features) == "image: 1,663 of 1,682 items (19 missing), 1280-d"
    assert int(has_feature(features).sum()) == 1663


def test_fill_missing() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [3.0, 6.0], [0.0, 0.0]])
    before = features.clone()
    assert fill_missing(features, "zero") is features
    filled = fill_missing(features, "mean")
    assert filled.tolist() == [[0, 0], [1, 2], [2, 4], [3, 6], [2, 4]]
    assert features.equal(before)
    assert not fill_missing(torch.zeros(3, 2), "mean").any()
    with pytest.raises(ValueError, match="'zero' or 'mean'"):
        fill_missing(features, "median")  # type: ignore[arg-type]


def test_mean_does_not_overflow() -> None:
    features = torch.tensor([[0.0], [3e38], [3e38], [0.0]])
    assert fill_missing(features, "mean")[3].item() == pytest.approx(3e38)


@pytest.mark.parametrize(
    "shape",
    [
        *("(-3, 2)", "(3, -2)", "(-3, -2)", "(True, 2)", "(2, True)", "(3.0, 2)", "(10**3, 2)", "(3, None)"),
        *("(99999999999999999999, 2)", "(9223372036854775807, 8)", "[3, 2]", "3", "()"),
    ],
)
def test_a_header_with_another_shape(tmp_path: Path, shape: str) -> None:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    path = write(tmp_path, np.zeros((1, 1)), ["a"])
    values = np.ones(6, dtype=np.float32).tobytes()
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + values)
    assert refusal(path).startswith(f"{path}: ")


def test_unknown_ids_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path, np.ones((5, 2)), ["c", "x", "a", "y", "z"])
    features, n_unknown = load_and_count(path, TOKENS)
    assert features.equal(load_features(path, TOKENS))
    assert n_unknown == 3
    assert load_and_count(write(tmp_path, np.ones((2, 2)), ["c", "a"]), TOKENS)[1] == 0


@pytest.mark.parametrize("header", [b"&a [*a, *a]", b"{'descr': (", b"{'descr': '<f4', 'x': \x00}"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_header_that_is_no_python_is_damage(tmp_path: Path, header: bytes, version: int) -> None:
    path = tmp_path / "toy.image.npy"
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + length + header + b"\n" * 64)
    with pytest.raises(UserError, match="is damaged or cut short"):
        open_features(path)
