"""Features of items or users from ``.npy`` files, joined to the dataset by raw token.

``<name>.<modality>.npy`` holds a float matrix; ``<name>.<modality>.ids`` beside it names the item of each
row, one raw item token a line. The order of the rows never matters: a row goes to the item that its id names,
and an item without a row gets zeros. Users have the same files; ``noun`` names them in messages.
"""

from __future__ import annotations

import mmap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from tokenize import TokenError  # numpy reads the header of an old file with it
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recbole_siger.common.numbers import whole_number
from recbole_siger.errors import UserError

__all__ = [
    "coverage_line",
    "coverage_text",
    "fill_missing",
    "has_feature",
    "load_and_count",
    "load_features",
    "open_features",
    "read_blocks",
]

BLOCK_ELEMENTS = 2**21
"""Values converted at a time: 8 MiB as float32, small beside any feature matrix."""


def load_features(
    path: Path,
    tokens: Sequence[str],
    *,
    strict_ids: bool = False,
    assume_order: bool = False,
    noun: str = "item",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""Load a feature file and give each item of the dataset the row that its id names.

    Items that the file lacks, and the padding item 0, get zeros. Ids that are not items of the dataset are
    ignored unless ``strict_ids``. The order of the file's rows does not change which item a row goes to.

    Args:
        path: ``<name>.<modality>.npy``, shape ``(R, F)``, float16, float32 or float64. The ids lie beside it
            in ``<name>.<modality>.ids``, UTF-8, R lines.
        tokens: Raw item tokens in the order of the dataset's internal ids, length I; the first is padding.
        strict_ids: Refuse a file with ids that are not items of the dataset.
        assume_order: Where there is no ``.ids`` file, let row i belong to the item with raw token ``str(i)``.
        noun: What a row belongs to, for messages: ``item`` or ``user``.
        dtype: Type of the result, float32 or bfloat16. No second copy in another type is made.

    Returns:
        Features, shape ``(I, F)``, of type ``dtype``, finite, on the CPU; row 0 is zero.

    Raises:
        UserError: If a file is missing, damaged or of another form, if ids and rows do not fit, if ids are
            repeated, unknown (``strict_ids``) or all foreign to the dataset, or if a value is NaN or infinite
            as ``dtype``.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> np.save(folder / "toy.image.npy", np.array([[5.0, 6.0], [1.0, 2.0]]))
        >>> _ = (folder / "toy.image.ids").write_text("c\na\n")
        >>> load_features(folder / "toy.image.npy", ["[PAD]", "a", "b", "c"]).tolist()
        [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [5.0, 6.0]]
    """
    return load_and_count(
        path, tokens, strict_ids=strict_ids, assume_order=assume_order, noun=noun, dtype=dtype
    )[0]


def load_and_count(
    path: Path,
    tokens: Sequence[str],
    *,
    strict_ids: bool = False,
    assume_order: bool = False,
    noun: str = "item",
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, int]:
    """Do what :func:`load_features` does, and count the rows whose ids are not in the dataset.

    Returns:
        Features, shape ``(I, F)``, and the number of rows of the file that no item has.

    Raises:
        UserError: As :func:`load_features`.
    """
    path = Path(path)
    array = open_features(path)
    ids = _row_ids(path, len(array), tokens, assume_order, noun)
    items = torch.from_numpy(_join(path, ids, tokens, strict_ids, noun))
    features = torch.zeros((len(tokens), array.shape[1]), dtype=dtype)
    for start, block in read_blocks(path, array, ids):
        item = items[start : start + len(block)]
        known = item > 0
        rows = torch.from_numpy(block)[known].to(dtype)
        if not rows.isfinite().all():  # the largest numbers of float32 are infinite in a type of fewer bits
            name = str(dtype).removeprefix("torch.")
            raise UserError(f"{path}: has a value that is infinite as {name}; set feature_dtype: float32")
        features[item[known]] = rows
    return features, int((items < 0).sum())


def open_features(path: Path) -> NDArray[Any]:
    """Map a feature file into memory without reading its values.

    Args:
        path: A ``.npy`` file, shape ``(R, F)`` with F >= 1, float16, float32 or float64.

    Returns:
        The matrix, shape ``(R, F)``, in the file's dtype, read-only.

    Raises:
        UserError: If the file is missing, is no ``.npy`` file, is damaged, needs pickle, or has another dtype
            or shape.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such feature file; put a .npy file of shape (items, dimensions) there.")
    try:
        # What np.load(mmap_mode="r", allow_pickle=False) calls for a .npy file; it refuses archives as well.
        with np.errstate(over="ignore"):  # a damaged header may name any shape
            array = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, TypeError, OverflowError, EOFError, SyntaxError, TokenError) as error:
        raise UserError(_why_unreadable(path, error)) from error
    if array.dtype.kind != "f" or array.dtype.itemsize not in (2, 4, 8):
        raise UserError(
            f"{path}: dtype is {array.dtype}; save it as float16, float32 or float64, "
            "e.g. with .astype('float32')."
        )
    if array.ndim != 2 or array.shape[1] == 0:
        raise UserError(f"{path}: shape is {array.shape}; it must be (items, dimensions), one row an item.")
    return array


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"{path}: may not be read; grant read permission."
    with path.open("rb") as handle:
        magic = handle.read(6)
    if magic != b"\x93NUMPY":
        return f"{path}: is not a .npy file (its first bytes are {magic!r}); save the array with np.save."
    if "Python objects" in str(error):
        return f"{path}: holds Python objects, which need pickle; save a float array, e.g. np.stack(rows)."
    return f"{path}: is damaged or cut short ({path.stat().st_size:,} bytes); copy or download it again."


def read_blocks(
    path: Path, array: NDArray[Any], ids: Sequence[object]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield a feature matrix as float32 in blocks of rows, refusing what is not finite.

    No second copy of the whole matrix is made, and the pages of a mapped file leave the process's memory
    block by block. A float64 beyond float32's range counts as infinite.

    Args:
        path: The file, for the message.
        array: Its values, shape ``(R, F)``, any float dtype.
        ids: The item of each row, for the message, length R.

    Yields:
        The block's first row, and the block, shape ``(<= R, F)``.

    Raises:
        UserError: If a value is NaN or infinite; names up to five items of the first such block.
    """
    n_rows = max(1, BLOCK_ELEMENTS // array.shape[1])
    for start in range(0, len(array), n_rows):
        with np.errstate(over="ignore"):
            block = np.asarray(array[start : start + n_rows]).astype(np.float32)
        if isinstance(array.base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            array.base.madvise(mmap.MADV_DONTNEED)
        bad = np.flatnonzero(~np.isfinite(block).all(axis=1))
        if len(bad):
            items = _name_some(ids[start + int(row)] for row in bad)
            raise UserError(
                f"{path}: NaN or infinite values (as float32) for items {items}; "
                "extract their features again, or write zeros for items without features."
            )
        yield start, block


def _row_ids(path: Path, n_rows: int, tokens: Sequence[str], assume_order: bool, noun: str) -> list[str]:
    """Return the raw token of each row of ``path``, length ``n_rows``."""
    ids_path = path.with_suffix(".ids")
    if not ids_path.is_file():
        if not assume_order:
            raise UserError(
                f"{ids_path}: no such file; write the {noun} of each row of {path.name} there, one raw "
                f"{noun} token a line, or set assume_order if row i belongs to the {noun} with token i."
            )
        _check_order(path, n_rows, tokens, noun)
        return [str(row) for row in range(n_rows)]
    try:
        lines = ids_path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{ids_path}: is not UTF-8 (byte {error.start:,}); save it as UTF-8.") from error
    ids = [line.removesuffix("\r") for line in lines]
    if ids[-1] == "":  # the end of the last line, not an id
        ids.pop()
    if len(ids) != n_rows:
        raise UserError(
            f"{ids_path}: {len(ids):,} ids for the {n_rows:,} rows of {path.name}; "
            "write one id a line, one line a row."
        )
    repeated = [token for token, count in Counter(ids).items() if count > 1]
    if repeated:
        raise UserError(
            f"{ids_path}: repeated ids {_name_some(repeated)}; keep one row of {path.name} for each {noun}."
        )
    return ids


def _check_order(path: Path, n_rows: int, tokens: Sequence[str], noun: str) -> None:
    for token in islice(tokens, 1, None):
        number = whole_number(token)
        if number is None or str(number) != token or number >= n_rows:
            raise UserError(
                f"{path}: assume_order needs {noun} tokens that are integers from 0 to {n_rows - 1}, "
                f"but the dataset has {noun} {str(token)!r}; write {path.with_suffix('.ids').name} instead."
            )


def _join(
    path: Path, ids: list[str], tokens: Sequence[str], strict_ids: bool, noun: str
) -> NDArray[np.int64]:
    """Return the internal id of each row, shape ``(R,)``; -1 where the dataset has no such item or user."""
    internal = {token: item for item, token in enumerate(tokens) if item > 0}
    items = np.fromiter((internal.get(token, -1) for token in ids), dtype=np.int64, count=len(ids))
    foreign = np.flatnonzero(items < 0)
    ids_path = path.with_suffix(".ids")
    if len(foreign) == len(ids):
        raise UserError(
            f"{ids_path}: none of its {len(ids):,} ids ({_name_some(ids)}) is {_article(noun)} of the "
            f"dataset ({_name_some(islice(tokens, 1, None))}); write the raw {noun} tokens of the "
            "interaction file."
        )
    if strict_ids and len(foreign):
        raise UserError(
            f"{ids_path}: {len(foreign):,} ids are not {noun}s of the dataset: "
            f"{_name_some(ids[row] for row in foreign)}; remove their rows, or turn strict_ids off."
        )
    return items


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeio" else f"a {noun}"


def _name_some(values: Iterable[object], limit: int = 5) -> str:
    names = [repr(str(value)) for value in islice(values, limit + 1)]
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def has_feature(features: Tensor) -> Tensor:
    """Return which items have a feature, that is, a row that is not all zero.

    Args:
        features: Shape ``(I, F)``, any float dtype.

    Returns:
        Boolean, shape ``(I,)``, on ``features.device``; False for the padding item.

    Example:
        >>> has_feature(torch.tensor([[0.0, 0.0], [0.0, 2.0]])).tolist()
        [False, True]
    """
    return (features != 0).any(dim=1)


def coverage_line(name: str, features: Tensor, *, noun: str = "item", n_unknown: int = 0) -> str:
    """Say how many items or users have a feature; the padding row does not count.

    Args:
        name: The modality.
        features: Shape ``(I, F)``, row 0 padding.
        noun: What a row belongs to.
        n_unknown: Rows of the file whose ids are not in the dataset.

    Returns:
        One line.

    Example:
        >>> features = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 2.0]])
        >>> coverage_line("image", features)
        'image: 1 of 2 items (1 missing), 2-d'
        >>> coverage_line("image", features, n_unknown=7)
        'image: 1 of 2 items (1 missing), 2-d; 7 ids of the file are not items of the dataset'
    """
    n_present = int(has_feature(features[1:]).sum())
    line = coverage_text(name, n_present, len(features) - 1, features.shape[1], noun=noun)
    return f"{line}; {n_unknown:,} ids of the file are not {noun}s of the dataset" if n_unknown else line


def coverage_text(name: str, n_present: int, n_items: int, dim: int, *, noun: str = "item") -> str:
    """Word the coverage of a modality.

    Example:
        >>> coverage_text("image", 1663, 1682, 1280)
        'image: 1,663 of 1,682 items (19 missing), 1280-d'
    """
    return f"{name}: {n_present:,} of {n_items:,} {noun}s ({n_items - n_present:,} missing), {dim}-d"


def fill_missing(features: Tensor, policy: Literal["zero", "mean"]) -> Tensor:
    """Give items without a feature a row by a stated policy.

    The padding row 0 stays zero. Where no item has a feature there is no mean, and the rows stay zero.

    Args:
        features: Shape ``(I, F)``, float, row 0 padding; left as it is.
        policy: ``"zero"`` returns ``features`` itself, ``"mean"`` the mean row of those with a feature.

    Returns:
        Shape ``(I, F)``, same dtype and device.

    Raises:
        ValueError: If ``policy`` is another.

    Example:
        >>> x = torch.tensor([[0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [3.0, 6.0]])
        >>> fill_missing(x, "mean").tolist()
        [[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]]
    """
    if policy not in ("zero", "mean"):
        raise ValueError(f"policy is {policy!r}; it must be 'zero' or 'mean'.")
    missing = ~has_feature(features)
    missing[0] = False
    n_present = len(features) - 1 - int(missing.sum())
    if policy == "zero" or n_present == 0 or not missing.any():
        return features
    # Missing rows add nothing, so the sum over all items is the sum over the present ones.
    rows = max(1, BLOCK_ELEMENTS // features.shape[1])
    total = sum(block.double().sum(dim=0) for block in features[1:].split(rows))
    filled = features.clone()
    filled[missing] = (total / n_present).to(features.dtype)
    return filled
