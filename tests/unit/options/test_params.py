"""A value becomes a typed parameter, or the error names key, value, range and origin."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_siger.errors import UserError
from recbole_siger.options.params import ModelParams, Option, bounded, build_params, did_you_mean, options


@dataclass(frozen=True, kw_only=True)
class Example:
    width: int = bounded("[1, inf)")
    rate: float = bounded("(0, 1]")
    kind: Literal["cosine", "popularity"]
    flag: bool
    names: tuple[str, ...] | None
    note: str | None
    shares: tuple[float, ...] | None = bounded("[0, 1]")


GOOD: dict[str, Any] = {
    "width": 3,
    "rate": 1,
    "kind": "cosine",
    "flag": False,
    "names": ["a", "b"],
    "note": None,
    "shares": [0.25, 1],
    "foreign": object(),
}


def refusal(**changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        build_params(Example, {**GOOD, **changes}, dict.fromkeys(changes, "some.yaml"))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_known_values_in_their_types() -> None:
    params = build_params(Example, GOOD)
    assert params == Example(
        width=3, rate=1.0, kind="cosine", flag=False, names=("a", "b"), note=None, shares=(0.25, 1.0)
    )
    assert type(params.rate) is float
    assert type(params.names) is tuple


def test_options_are_listed_in_order_with_their_ranges() -> None:
    listed = options(Example)
    assert [option.name for option in listed] == ["width", "rate", "kind", "flag", "names", "note", "shares"]
    assert [option.range for option in listed] == [
        "[1, inf)",
        "(0, 1]",
        "cosine | popularity",
        "",
        "",
        "",
        "[0, 1]",
    ]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("width", 0, "expected a number in [1, inf)"),
        ("width", 2.5, "integer"),
        ("width", True, "integer"),
        ("width", "3", "integer"),
        ("width", None, "integer"),
        ("rate", 0.0, "expected a number in (0, 1]"),
        ("rate", 1.0001, "expected a number in (0, 1]"),
        ("rate", "high", "number"),
        ("rate", False, "number"),
        ("rate", float("nan"), "expected a number"),
        ("kind", "cosin", "did you mean `cosine`?"),
        ("kind", 3, "expected one of 'cosine', 'popularity'"),
        ("flag", 1, "True or False"),
        ("flag", "yes", "True or False"),
        ("names", "a", "expected a list"),
        ("names", [1], "a string"),
        ("note", 4, "a string"),
        ("shares", 0.5, "expected a list"),
        ("shares", [0.5, 1.5], "expected a number in [0, 1]"),
        ("shares", ["much"], "number"),
    ],
)
def test_a_wrong_value_is_told_with_key_value_and_origin(key: str, value: Any, expected: str) -> None:
    message = refusal(**{key: value})
    assert message.startswith(f"some.yaml: {key}={value!r}: ")
    assert expected in message


def test_a_missing_value_is_told_with_its_range() -> None:
    with pytest.raises(UserError, match=r"configuration: rate is missing; give it a value \(\(0, 1\]\)"):
        build_params(Example, {key: value for key, value in GOOD.items() if key != "rate"})


@pytest.mark.parametrize("interval", ["1, 2", "[1, 2", "<1, 2]", "[1]", "[a, b]"])
def test_an_interval_that_is_none_is_refused_where_it_is_declared(interval: str) -> None:
    with pytest.raises(ValueError, match=r"interval|unpack|float"):
        bounded(interval)


@dataclass(frozen=True, kw_only=True)
class VBPRParams(ModelParams):
    """Declares fewer parameters than VBPR's YAML has: other keys have no effect."""

    embedding_size: int = bounded("[1, inf)")
    reg_weight: float = bounded("[0, inf)")


def test_the_defaults_of_a_model_are_those_of_its_yaml() -> None:
    defaults = VBPRParams.defaults()
    assert defaults.embedding_size == 64
    assert VBPRParams.defaults(reg_weight=3) == VBPRParams(embedding_size=64, reg_weight=3.0)
    assert type(VBPRParams.defaults(reg_weight=3).reg_weight) is float


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"embedding_sise": 3}, "unknown key `embedding_sise`; did you mean `embedding_size`?"),
        ({"tau": 3}, "unknown key `tau`; the parameters are embedding_size, reg_weight"),
        ({"embedding_size": 0}, "embedding_size=0: expected a number in [1, inf)"),
        ({"reg_weight": "much"}, "reg_weight='much': expected a number"),
    ],
)
def test_a_wrong_change_of_a_default_is_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError) as caught:
        VBPRParams.defaults(**changes)
    assert str(caught.value) == f"VBPRParams.defaults: {expected}"


def test_defaults_may_be_in_another_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"

    class OtherParams(VBPRParams):
        @classmethod
        def defaults_file(cls) -> Path:
            return file

    file.write_text("embedding_size: 0\nreg_weight: 1\n")
    with pytest.raises(UserError, match=r"mine\.yaml: embedding_size=0: expected"):
        OtherParams.defaults()
    assert OtherParams.defaults(embedding_size=5).embedding_size == 5

    @dataclass(frozen=True, kw_only=True)
    class AbsentParams(ModelParams):
        width: int = bounded("[1, inf)")

    with pytest.raises(
        UserError, match=r"^AbsentParams: width has no default; add Absent\.yaml, or a default in"
    ):
        AbsentParams.defaults()

    @dataclass(frozen=True, kw_only=True)
    class WiderParams(VBPRParams):
        width: int = bounded("[1, inf)", default=7)
        sizes: tuple[int, ...] = (3, 5)

    assert WiderParams.defaults(reg_weight=2) == WiderParams(embedding_size=64, reg_weight=2.0)
    assert WiderParams.defaults().sizes == (3, 5)


@given(
    st.sampled_from("[("), st.integers(-5, 5), st.integers(0, 5), st.sampled_from("])"), st.integers(-7, 12)
)
def test_a_number_is_taken_exactly_if_it_lies_in_the_interval(
    left: str, low: int, length: int, right: str, value: int
) -> None:
    high = low + length
    inside = (low <= value if left == "[" else low < value) and (
        value <= high if right == "]" else value < high
    )
    option = Option("x", int, f"{left}{low}, {high}{right}")
    if inside:
        assert option.convert(value) == value
    else:
        with pytest.raises(ValueError, match="expected a number in"):
            option.convert(value)


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("SIGR", "; did you mean `SIGER`?"),
        ("siger", "; did you mean `SIGER`?"),
        ("bpr", "; did you mean `BPR`?"),
        ("quite_other", ""),
    ],
)
def test_did_you_mean(word: str, hint: str) -> None:
    assert did_you_mean(word, ["SIGER", "BPR"]) == hint
