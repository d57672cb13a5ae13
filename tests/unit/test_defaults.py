"""What is read from files without importing RecBole is what RecBole's Config understands."""

from __future__ import annotations

import pytest
from recbole.utils import argument_list

from recbole_siger.compat import argument_names
from recbole_siger.config import Config
from recbole_siger.defaults import check_keys, default_values, known_keys
from recbole_siger.errors import UserError
from recbole_siger.registry import MODELS, recbole_root

# One or more of each type that RecBole reads other files for: general, context, sequential, knowledge.
OF_RECBOLE = ("BPR", "EASE", "DeepFM", "SASRec", "SASRecF", "DIN", "GRU4RecKG", "KGAT", "Random")


@pytest.mark.parametrize("dataset", ["ml-100k", "NAME"])
@pytest.mark.parametrize("model", [*MODELS, *OF_RECBOLE])
def test_known_keys_are_those_of_the_configuration(model: str, dataset: str) -> None:
    values = {"train_neg_sample_args": None} if model.startswith(("SASRec", "GRU4Rec")) else {}
    config = Config(model, dataset, config_dict=values)
    assert known_keys(default_values(model, dataset)) == config.known_keys()


def test_the_lists_of_keys_are_those_of_recbole() -> None:
    lists = [value for name, value in vars(argument_list).items() if name.endswith("_arguments")]
    assert len(lists) == 4
    assert argument_names(recbole_root()) == {name for names in lists for name in names}


def test_default_values_are_those_of_the_configuration() -> None:
    values, config = default_values("SIGER", "ml-100k"), Config("SIGER", "ml-100k")
    assert {key: values[key] for key in ("epochs", "saved", "co_weight", "train_batch_size", "prepare")} == {
        key: config.internal_config_dict[key]
        for key in ("epochs", "saved", "co_weight", "train_batch_size", "prepare")
    }


def test_an_unknown_key_names_the_closest_one_or_the_list() -> None:
    known = known_keys(default_values("SIGER", "NAME"))
    check_keys("here", ["co_weight", "epochs"], known, "SIGER")
    with pytest.raises(UserError, match=r"^here: unknown key `co_wieght`; did you mean `co_weight`\?$"):
        check_keys("here", ["epochs", "co_wieght"], known, "SIGER")
    with pytest.raises(UserError, match=r"^here: unknown key `zzzzz`; `recbole-siger config SIGER` lists"):
        check_keys("here", ["zzzzz"], known, "SIGER")
