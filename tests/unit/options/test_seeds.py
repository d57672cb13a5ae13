"""The seeds of an option."""

from __future__ import annotations

import pytest

from recbole_siger.errors import UserError
from recbole_siger.options.seeds import MAX_COUNTED, seed_list


@pytest.mark.parametrize("seeds", ["99999999999", "1000000000", str(MAX_COUNTED + 1), 10**30])
def test_a_seed_in_place_of_a_number_is_refused_at_once(seeds: str | int) -> None:
    with pytest.raises(UserError, match=rf"^--seeds={seeds}: at most 1,000 seeds are counted; write fewer"):
        seed_list(seeds, 2020)


def test_a_list_may_be_longer() -> None:
    assert seed_list(str(MAX_COUNTED), 5) == [*range(5, 5 + MAX_COUNTED)]
    listed = [*range(2 * MAX_COUNTED)]
    assert seed_list(",".join(map(str, listed)), 5) == listed


@pytest.mark.parametrize("seeds", ["[2021]", "2021,", [2021], (2021,)])
def test_a_list_may_hold_one_seed(seeds: str | list[int] | tuple[int, ...]) -> None:
    assert seed_list(seeds, 5) == [2021]


@pytest.mark.parametrize("seeds", ["[[1, 2]]", "1,[2]", "[]", "[one]", "[3, 3]", "1.5", "[True]"])
def test_a_list_of_other_values_is_refused(seeds: str) -> None:
    with pytest.raises(UserError, match=r"write a number of seeds, or a list of different seeds"):
        seed_list(seeds, 5)
