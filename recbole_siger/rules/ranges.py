"""Ranges of the options that RecBole's models read, by the name of the option.

RecBole declares no ranges: ``embedding_size=0`` or ``reg_weight=-1`` would train. One key means the same in
all of its models, so that one table by name is enough. The models of this package declare ranges themselves.
"""

from __future__ import annotations

import re
from typing import Any

from recbole_siger.options.params import MAX_INT, Option

__all__ = ["range_of", "range_problem"]

_SIZE = Option("", int, "[1, inf)")
_COUNT = Option("", int, "[0, inf)")
_WEIGHT = Option("", float, "[0, inf)")
_PROBABILITY = Option("", float, "[0, 1]")
_TEMPERATURE = Option("", float, "(0, inf)")

_TABLE = (
    (
        r"(.+_)?embedding_size|(.+_)?hidden_size(_list)?|inner_size|attention_size|weight_size"
        r"|latent_dimension|gcn_output_dim|in_dims|out_dims|dims_dnn|critic_layers|cin_layer_size|t_cin"
        r"|cnn_(channels|kernels|strides)|(n|num)_heads|k|k_interests|metrics_k|num_clusters|rank|low_rank"
        r"|kfac|n_factors|interest_size|prototype_size|expert_num|n_memory|neighbor_sample_size|neigh_num"
        r"|steps|history_num_per_term|(vae_|total_)?anneal_steps|MAX_ITEM_LIST_LENGTH|n_(dec|enc)_epochs"
        r"|num_basis_functions|order|order_list|second_order|pretrain_epochs|save_step|nproc"
        r"|class_num|(conv|pool)_kernel_size|num_conv_kernel|hidden_dimension|history_len|m_step|n_cate",
        _SIZE,
    ),
    (
        r"(n|num)_layers|n_hops?|n_iter|n_iterations|sampling_steps|split_to|loss_decimal_place"
        r"|(low|high)_layers_num|cross_layer_num|block_num|hyper_layers|lightgcn_layer|warm_up_step",
        _COUNT,
    ),
    (
        r"reg_weights?|reg_weight_[12]|lambda[12]|resolution|w_(min|max)|(?!preload_)(.+_)?weight|weight_decay|ssl_reg|proto_reg|sim_regularity|lambda_coeff|lamda|rho"
        r"|shrink|margin|noise_(scale|min|max)",
        _WEIGHT,
    ),
    (
        r"(.+_)?dropout(_prob|_probs|_rate)?|drop_ratio|drop_(ex|im)|corruption_ratio|mask_ratio"
        r"|(vae_)?anneal_cap|global_ratio|ft_ratio|ls_weight|l1_ratio",
        _PROBABILITY,
    ),
    (r"(.+_)?temperature|(ssl_)?tau|ssl_temp", _TEMPERATURE),
)


def range_of(key: str) -> Option | None:
    """Return type and range of an option of RecBole's models, or None if the table has none.

    >>> range_of("mlp_embedding_size").interval, range_of("dropout_prob").interval, range_of("act")
    ('[1, inf)', '[0, 1]', None)
    """
    found = [option for pattern, option in _TABLE if re.fullmatch(pattern, key)]
    return found[-1] if found else None


def range_problem(key: str, value: Any) -> str | None:
    """Return what is wrong with a value of RecBole's, or None; each entry of a list is checked.

    >>> range_problem("embedding_size", 0), range_problem("mlp_hidden_size", [64, -1])
    ('expected a number in [1, inf)', 'expected numbers in [1, inf), not -1')
    """
    option = range_of(key)
    if isinstance(value, int) and abs(value) > MAX_INT:
        return f"expected at most {MAX_INT} in absolute value"
    if option is None or value is None:
        return None
    for entry in value if isinstance(value, list | tuple) else (value,):
        try:
            option.convert(entry)
        except ValueError as error:
            text = str(error)
            if entry is value:
                return text
            return f"{text.replace('a number', 'numbers').replace('an integer', 'integers')}, not {entry!r}"
    return None
