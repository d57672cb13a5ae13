"""One canonical form for every id."""

import datetime
from pathlib import Path

import pytest

from recbole_siger.common.digests import canonical_digest
from recbole_siger.evaluation.protocol import protocol_id


def test_known_digests() -> None:
    """SHA-256 of ``{}`` and of ``{"a":[1,"\\u00fc"],"b":null}``; ids in results/ have this form."""
    assert canonical_digest({}) == "44136fa355b3678a"
    expected = "eb7f3d221da616470b6745d0feb6d54ccf9fb5127d2742720fdfc5f887564e4a"
    assert canonical_digest({"b": None, "a": (1, "ü")}, digits=64) == expected
    assert (
        canonical_digest({"b": None, "a": [1, "ü"]})
        == expected[:16]
        == protocol_id({"b": None, "a": [1, "ü"]})
    )


def test_values_that_differ_have_other_digests() -> None:
    values = [{}, [], None, "", 0, 0.0, False, {"a": 1}, {"a": "1"}, {"a": [1]}, {"a": {"b": 1}}, {"b": 1}]
    assert len({canonical_digest(value) for value in values}) == len(values)


def test_what_json_does_not_know_is_its_text() -> None:
    day = datetime.date(2020, 2, 3)
    assert canonical_digest({"file": Path("a/b"), "day": day}) == canonical_digest(
        {"file": "a/b", "day": "2020-02-03"}
    )


@pytest.mark.parametrize("digits", [0, 65])
def test_digits_have_a_range(digits: int) -> None:
    with pytest.raises(ValueError, match="expected a number in"):
        canonical_digest({}, digits=digits)
