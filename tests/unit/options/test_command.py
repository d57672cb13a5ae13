"""What is typed becomes typed options: text stays text, lists are split, the rest is YAML."""

from __future__ import annotations

import pytest

from recbole_siger.errors import UserError
from recbole_siger.extract.run import ExtractParams
from recbole_siger.options.command import command_params


def test_types() -> None:
    given = {"dataset": "2020", "items": "1e3", "text_cols": "title, brand,", "max_tokens": "64"}
    params = command_params(ExtractParams, "extract", given | {"normalize": "True", "id_col": "None"})
    assert (params.dataset, params.items, params.id_col) == ("2020", "1e3", "None")
    assert (params.text_cols, params.max_tokens, params.normalize) == (("title", "brand"), 64, True)
    assert (params.engine, params.data_path, params.device) == ("local", "dataset", None)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"dataset": "d"}, "`extract` requires --items; see"),
        ({"dataset": "d", "items": "i", "shard": "5"}, r"no option --shard; did you mean `shard_size`\?"),
        ({"dataset": "d", "items": "i", "shard_size": "0"}, r"command line: shard_size=0: .*\[1, inf\)"),
        ({"dataset": "d", "items": "i", "normalize": "maybe"}, "normalize='maybe': expected True or False"),
        ({"dataset": "d", "items": "i", "engine": "rya"}, "engine='rya': .*did you mean `ray`"),
    ],
)
def test_errors_name_the_key(given: dict[str, str], complaint: str) -> None:
    with pytest.raises(UserError, match=f"^command line: .*{complaint.removeprefix('command line: ')}"):
        command_params(ExtractParams, "extract", given)
