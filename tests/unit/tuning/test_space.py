"""Spaces are read strictly, and points are drawn as they say."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.tuning.space import Range, draw_points, n_points, point_id, read_space

GRID: dict[str, Any] = {"a": [1, 2, 3], "b": [0.1, 0.2], "c": ["x", "y"]}
WHOLE = [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]


def config(tmp_path: Path, model: str = "SIGER") -> Config:
    return Config(model, "none", config_dict={"data_path": str(tmp_path), "gpu_id": ""})


def drawn(space: dict[str, Any], n: int | None, **options: Any) -> list[dict[str, Any]]:
    return draw_points(space, n, **{"seed": 5, "grid": True, "defaults": {}, **options})


def test_a_model_has_its_own_grid(tmp_path: Path) -> None:
    space = read_space(config(tmp_path))
    assert space["co_weight"] == [0.1, 0.2, 0.3, 0.4, 0.5]
    assert len(drawn(space, None)) == 5 * 2 * 2 * 2 * 4 * 4


def test_pairs_stand_instead_of_the_grid_and_over_a_file(tmp_path: Path) -> None:
    pairs = ["co_weight=0.1,0.3", "noise_eps={low: 1e-3, high: 0.1, log: true}"]
    expected = {"co_weight": [0.1, 0.3], "noise_eps": Range(1e-3, 0.1, log=True)}
    assert read_space(config(tmp_path), pairs=pairs) == expected
    file = tmp_path / "space.yaml"
    file.write_text("co_weight: [0.5]\nn_ui_layers: {low: 1, high: 4}\nmodalities: [[text], [image, text]]\n")
    assert read_space(config(tmp_path), file, ["co_weight=0.1"]) == {
        "co_weight": [0.1],
        "n_ui_layers": Range(1, 4),
        "modalities": [["text"], ["image", "text"]],
    }


@pytest.mark.parametrize(
    ("pair", "complaint"),
    [
        ("co_weigt=0.1", "command line: unknown key `co_weigt`; did you mean `co_weight`?"),
        ("co_weight=0.1,7", "command line: co_weight=7: expected a number in [0, 1]"),
        (
            "co_weight=0.1,0.1",
            "command line: co_weight=[0.1, 0.1]: the list repeats a value; keep each value once",
        ),
        ("co_weight={low: 0.5, high: 0.1}", "expected low < high"),
        ("co_weight={low: 0, high: 0.1, log: true}", "low > 0 with log: true"),
        ("co_weight={low: 0, high: 1, step: 2}", "write a list of values"),
        ("co_weight={low: 0.5, high: 7}", "co_weight=7: expected a number in [0, 1]"),
        ("seed=1,2", "seed cannot be searched: --seeds=2020,2021 repeats each point"),
        ("nproc=1,2", "nproc cannot be searched: a trial is one process"),
        ("protocol=mmrec", "protocol cannot be searched: the key decides what is measured"),
        ("co_weight", "--set co_weight: write --set key=value,value"),
        ("=1", "--set =1: write --set key=value,value"),
    ],
)
def test_a_bad_pair_is_named(tmp_path: Path, pair: str, complaint: str) -> None:
    with pytest.raises(UserError) as caught:
        read_space(config(tmp_path), pairs=[pair])
    assert complaint in str(caught.value)


def test_a_key_is_set_once(tmp_path: Path) -> None:
    for pairs in (["co_weight=0.1", "co_weight=0.2"], ["n_ui_layers=1", "co_weight=1", "n_ui_layers=1"]):
        key = pairs[0].partition("=")[0]
        with pytest.raises(
            UserError, match=rf"^command line: --set {key} is given twice; write --set {key}="
        ):
            read_space(config(tmp_path), pairs=pairs)


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    with pytest.raises(UserError, match=r"^--space=.*space\.yaml: no such file$"):
        read_space(config(tmp_path), file)
    for text, complaint in [
        ("", "has no key"),
        ("co_weight: 3", "write a list"),
        ("co_weight: [3]", "[0, 1]"),
    ]:
        file.write_text(text)
        with pytest.raises(UserError, match=r"space\.yaml") as caught:
            read_space(config(tmp_path), file)
        assert complaint in str(caught.value)


def test_a_model_without_a_grid_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"DMF has no properties/search/DMF\.yaml; give a space"):
        read_space(config(tmp_path, "DMF"))


@pytest.mark.parametrize("n", [None, 12, 99])
def test_a_whole_grid_has_every_combination_once_in_random_order(n: int | None) -> None:
    points = drawn(GRID, n)
    assert sorted(points, key=WHOLE.index) == WHOLE
    firsts = Counter(point_id(drawn(GRID, n, seed=seed)[0], 0) for seed in range(200))
    assert len(firsts) == len(WHOLE)  # without a point of the defaults, each can be the first


@pytest.mark.parametrize("n", [1, 2, 5, 11, 12])
def test_a_grid_begins_with_the_defaults(n: int) -> None:
    defaults = {"a": 2, "b": 0.2, "c": "x", "other": 1}
    kept = drawn(GRID, n, defaults=defaults)
    assert len(kept) == n
    assert kept[0] == {"a": 2, "b": 0.2, "c": "x"}
    assert all(point in WHOLE and kept.count(point) == 1 for point in kept)
    assert drawn(GRID, n, defaults=defaults) == kept


def test_a_thinned_grid_differs_with_the_seed_and_spares_no_point() -> None:
    seen = Counter(point_id(point, 0) for seed in range(200) for point in drawn(GRID, 3, seed=seed))
    assert len(seen) == len(WHOLE)  # each is drawn 50 times on average
    assert min(seen.values()) > 25


def test_a_vast_grid_is_thinned_without_being_walked() -> None:
    vast = {f"key{number:02}": list(range(10)) for number in range(12)}
    defaults = dict.fromkeys(vast, 7)
    kept = drawn(vast, 5, defaults=defaults)
    assert len({point_id(point, 0) for point in kept}) == 5
    assert defaults in kept
    assert len(drawn(vast, 5, grid=False)) == 5
    assert n_points(vast) == 10**12
    larger = {f"key{number:02}": list(range(10)) for number in range(20)}  # beyond 64 bits
    assert len({point_id(point, 0) for point in drawn(larger, 5)}) == 5


def test_a_whole_grid_that_no_search_finishes_is_refused() -> None:
    vast = {f"key{number:02}": list(range(10)) for number in range(6)}
    with pytest.raises(UserError, match="the grid has 1,000,000 points; try a part of it with --num_samples"):
        drawn(vast, None)


def test_a_range_has_no_grid() -> None:
    with pytest.raises(UserError, match="b: a range has no grid"):
        drawn({"a": [1], "b": Range(0.0, 1.0)}, 3)


def test_random_points_fill_ranges() -> None:
    space = {"lr": Range(1e-4, 1e-2, log=True), "layers": Range(1, 4), "kind": ["x", "y"]}
    points = drawn(space, 400, grid=False)
    assert len(points) == 400
    assert {point["layers"] for point in points} == {1, 2, 3, 4}
    assert {point["kind"] for point in points} == {"x", "y"}
    low = sum(point["lr"] < 1e-3 for point in points)
    assert 150 < low < 250  # half of the orders of magnitude
    assert all(1e-4 <= point["lr"] <= 1e-2 for point in points)


def test_a_small_space_gives_what_it_has() -> None:
    points = drawn({"a": Range(1, 2), "b": [0, 1]}, 50, grid=False)
    assert sorted((point["a"], point["b"]) for point in points) == [(1, 0), (1, 1), (2, 0), (2, 1)]


@given(st.integers(-5, 5), st.integers(1, 9), st.floats(0, 1, exclude_max=True))
def test_a_range_stays_within_its_ends(low: int, width: int, share: float) -> None:
    whole, parts = Range(low, low + width).at(share), Range(float(low), float(low + width)).at(share)
    assert isinstance(whole, int)
    assert low <= whole <= low + width
    assert low <= parts <= low + width


@given(st.floats(0, 1, exclude_max=True), st.booleans())
def test_a_narrow_range_of_long_numbers_stays_within_its_ends(share: float, log: bool) -> None:
    whole = Range(1234567, 1234570, log)
    assert 1234567 <= whole.at(share) <= 1234570
    assert {whole.at((i + 0.5) / 4) for i in range(4)} == {1234567, 1234568, 1234569, 1234570}
    assert 0.9999991 <= Range(0.9999991, 0.9999999, log).at(share) <= 0.9999999


def test_an_id_is_of_the_point_and_the_seed() -> None:
    ids = {point_id(point, seed) for point in WHOLE for seed in (1, 2)}
    assert {len(found) for found in ids} == {16}
    assert len(ids) == 2 * len(WHOLE)
    assert point_id({"b": 1, "a": 2}, 1) == point_id({"a": 2, "b": 1}, 1)


@pytest.mark.parametrize("key", ["cache_dir", "saved", "gpu_id"])
def test_a_key_that_changes_no_result_is_not_searched(key: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"command line: {key} cannot be searched: the key changes no result"):
        read_space(config(tmp_path), pairs=[f"{key}=1,2"])
