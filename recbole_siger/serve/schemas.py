"""Forms of requests and answers; FastAPI checks requests with them and describes the routes by them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, WithJsonSchema
from pydantic_core import PydanticCustomError

__all__ = [
    "Added",
    "Failure",
    "Health",
    "NewItems",
    "RecommendBody",
    "RecommendQuery",
    "Recommendations",
    "ReloadReport",
    "RunFacts",
    "SimilarItems",
    "SimilarQuery",
]


def _id_text(value: Any) -> Any:
    """Read a whole number as its text; leave anything else to the check for text.

    JSON can name half of a pair of surrogates, which no UTF-8 file and no answer can hold.
    """
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise PydanticCustomError("surrogate", "Input should be text without surrogates, such as \\ud800")
    return str(value) if type(value) is int else value


Id = Annotated[
    str,
    BeforeValidator(_id_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
ListText = Annotated[list[str], Field(description="Item ids between commas; may be repeated.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RecommendQuery(_Strict):
    """Query of ``GET /recommend``."""

    user: str | None = Field(None, description="User id. Without a user, `history` decides.")
    k: int = Field(10, ge=1, description="Items at most.")
    history: ListText = Field(
        [], description="Item ids of a user who is not in the run, between commas; may be repeated."
    )
    candidates: list[str] | None = Field(
        None, description="Only these items, between commas; may be repeated. By default all items."
    )
    exclude_seen: bool = Field(
        True, description="Whether training items, validation items and the history are left out."
    )
    details: bool = Field(False, description="Whether each item has its title and whether it has a picture.")


class RecommendBody(_Strict):
    """Body of ``POST /recommend``: long lists, and ids that contain commas."""

    user: Id | None = Field(None, description="User id. Without a user, `history` decides.")
    k: Annotated[int, Strict()] = Field(10, ge=1, description="Items at most.")
    history: list[Id] = Field([], description="Item ids of a user who is not in the run.")
    candidates: list[Id] | None = Field(None, description="Only these items; by default all items.")
    exclude_seen: Annotated[bool, Strict()] = Field(
        True, description="Whether training items, validation items and the history are left out."
    )
    details: Annotated[bool, Strict()] = Field(
        False, description="Whether each item has its title and whether it has a picture."
    )


class SimilarQuery(_Strict):
    """Query of ``GET /similar``."""

    item: str = Field(description="Item id.")
    k: int = Field(10, ge=1, description="Items at most.")
    details: bool = Field(False, description="Whether each item has its title and whether it has a picture.")


class NewItems(_Strict):
    """Body of ``POST /new-items``."""

    ids: list[Id] = Field(min_length=1, description="Ids of the new items.")
    features: dict[str, list[list[Number]]] = Field(
        description="For each modality of the run one row of finite numbers for each id, in their order."
    )


class Ranked(BaseModel):
    """One item of an answer."""

    item: str
    score: float
    rank: int = Field(ge=1)
    title: str | None = Field(None, description="Only with `details`.")
    image: bool | None = Field(None, description="Only with `details`: whether /images/ITEM has a picture.")


class Recommendations(BaseModel):
    """Answer of ``/recommend``."""

    user: str | None
    source: Literal["user", "history", "popular"] = Field(
        description="user: scores of the model; history: scores of the items in `history`; popular: the "
        "items with the most training rows, their number as score."
    )
    items: list[Ranked]
    ignored: list[str] = Field(description="Ids of `history` and `candidates` that are not in the run.")


class SimilarItems(BaseModel):
    """Answer of ``/similar``."""

    item: str
    items: list[Ranked]


class Added(BaseModel):
    """Answer of ``POST /new-items``."""

    added: list[str]
    n_new_items: int = Field(description="All new items in memory.")


class ReloadReport(BaseModel):
    """Answer of ``POST /reload``."""

    status: Literal["reloaded", "unchanged", "failed"]
    run: str = Field(description="Name of the run that is served now.")
    error: str | None
    new_items_dropped: int = Field(description="New items in memory that the newer run does not know.")


class RunFacts(BaseModel):
    """Answer of ``GET /run``."""

    run: str
    model: str
    dataset: str
    n_users: int
    n_items: int
    n_new_items: int
    n_titles: int
    n_images: int
    example_users: list[str]
    loaded_at: float = Field(description="Seconds since 1970.")
    last_reload: ReloadReport | None
    limits: dict[str, int]


class Health(BaseModel):
    """Answer of ``GET /health``."""

    status: Literal["ok"]


class Failure(BaseModel):
    """Answer to a request that cannot be answered."""

    error: str
