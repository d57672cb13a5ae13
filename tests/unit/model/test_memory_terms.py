"""What a model says about its memory, against what torch allocates."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.device import CUDA, force_choices
from recbole_siger.registry import MODELS
from tests.unit.training.test_memory import peak_bytes

# Users, items, drawn interactions, rows of a batch, widths of the features.
SHAPES: dict[str, tuple[int, int, int, int, dict[str, int]]] = {
    "wide features": (1009, 757, 5003, 1021, {"image": 2053, "text": 383}),
    "many users": (9001, 2003, 50021, 2039, {"image": 127, "text": 61}),
    "large batch": (503, 401, 5003, 4093, {"image": 61, "text": 31}),
    "three modalities": (2003, 5003, 30011, 509, {"image": 127, "text": 61, "audio": 31}),
}


def ids(n: int, size: int, seed: int) -> Tensor:
    return torch.randint(1, n, (size,), generator=torch.Generator().manual_seed(seed))


def build(model: str, shape: str, **changes: Any) -> Any:
    n_users, n_items, n_edges, _, widths = SHAPES[shape]
    generator = torch.Generator().manual_seed(3)
    features = {m: torch.randn(n_items, width, generator=generator) for m, width in widths.items()}
    for table in features.values():
        table[0] = 0
    edges = torch.stack([ids(n_users, n_edges, 5), ids(n_items, n_edges, 7)]).unique(dim=1)
    cls = MODELS[model].load()
    params = cls.params_class.defaults(**SMALLER.get(model, {}), **changes)
    return cls.from_tensors(params, n_users=n_users, n_items=n_items, train_edges=edges, features=features)


OWN_FORMULA = tuple(MODELS)
SMALLER: dict[str, dict[str, Any]] = {
    "DiffMM": {"hidden_size": 61},
    "SCALE": {"n_candidates": 31, "user_sparsity": 3, "user_item_sparsity": 3},
}


def backward_of(terms: dict[str, Tensor]) -> None:
    if terms:
        torch.stack(list(terms.values())).sum().backward()


CASES: list[tuple[str, dict[str, Any], str]] = [
    *((model, {}, shape) for model in OWN_FORMULA for shape in SHAPES),
    ("SIGER", {"contrast_negatives": "full", "n_semantic_layers": 3}, "many users"),
    ("SIGER", {"ablation": "mp", "embedding_size": 17}, "large batch"),
    ("SIGER", {"train_features": True}, "wide features"),
    ("VBPR", {"train_features": True}, "three modalities"),
    ("LATTICE", {"embedding_size": 17}, "many users"),
    ("FREEDOM", {"train_features": False}, "wide features"),
    ("MGCN", {"train_features": False}, "wide features"),
    ("SCALE", {"relation_batch": 0, "n_relation_negatives": 3}, "three modalities"),
    ("SCALE", {"ablation": "relation"}, "large batch"),
    ("MIGGT", {"hidden_size": 61, "n_samples": 19}, "large batch"),
    ("MENTOR", {"noise_rows": "batch", "noise_shared": True}, "many users"),
    ("RLMRec", {"backbone": "sgl"}, "many users"),
    ("KAR", {"backbone": "sgl", "fusion": "project"}, "many users"),
    ("DiffMM", {"contrast": "final"}, "large batch"),
    ("DiffMM", {"denoise_batch": 64, "projection": "linear"}, "many users"),
    ("KAR", {"n_own_experts": 5, "expert_size": 31}, "large batch"),
    ("RLMRec", {"backbone": "sgl", "alignment": "gen", "embedding_size": 67}, "large batch"),
    ("RLMRec", {"alignment": "gen"}, "wide features"),
]


SLOW = ("many users", "three modalities")  # a quarter of a minute for all models


@pytest.mark.parametrize(
    ("model", "changes", "shape"),
    [
        pytest.param(*case, marks=pytest.mark.slow if case[2] in SLOW and case[0] != "SIGER" else ())
        for case in CASES
    ],
)
def test_a_step_and_a_forward_pass_are_within_a_factor_of_two(
    model: str, changes: dict[str, Any], shape: str
) -> None:
    instance, batch_size = build(model, shape, **changes), SHAPES[shape][3]
    found = instance.memory_terms(batch_size)
    batch = {
        "user_id": ids(instance.n_users, batch_size, 11),
        "item_id": ids(instance.n_items, batch_size, 13),
        "neg_item_id": ids(instance.n_items, batch_size, 17),
    }
    instance.on_epoch_start(0)
    measured = peak_bytes(lambda: backward_of(instance.loss_terms(batch)))
    instance.zero_grad()
    measured = max(measured, peak_bytes(lambda: backward_of(next(instance.auxiliary_losses(0), {}))))
    gradients = sum(parameter.nbytes for parameter in instance.parameters() if parameter.requires_grad)
    assert measured / 2 <= found.step + gradients <= measured * 2
    instance.eval()
    measured = peak_bytes(instance.final_embeddings)
    assert measured / 2 <= found.forward <= measured * 2


def test_a_step_with_the_choices_of_a_gpu_is_within_a_factor_of_two() -> None:
    instance, batch_size = build("SIGER", "wide features"), SHAPES["wide features"][3]
    names, sizes = ("user_id", "item_id", "neg_item_id"), (instance.n_users, *[instance.n_items] * 2)
    batch = {name: ids(n, batch_size, 11 + n) for name, n in zip(names, sizes, strict=True)}
    with force_choices(CUDA):
        backward_of(instance.loss_terms(batch))  # builds what is built once
        instance.zero_grad()
        measured = peak_bytes(lambda: backward_of(instance.loss_terms(batch)))
        found = instance.memory_terms(batch_size).step
    gradients = sum(parameter.nbytes for parameter in instance.parameters() if parameter.requires_grad)
    assert measured / 2 <= found + gradients <= measured * 2
    assert found > 1.1 * instance.memory_terms(batch_size).step


def test_the_formulas_are_the_models_own() -> None:
    default = MultimodalRecommender.memory_terms
    assert all(MODELS[name].load().memory_terms is not default for name in OWN_FORMULA)


def test_a_model_without_a_formula_has_the_guess_of_the_base_class() -> None:
    instance, width = build("VBPR", "wide features", embedding_size=3), 4 * 3
    n_users, n_items, _, batch_size, widths = SHAPES["wide features"]
    step, forward = MultimodalRecommender.memory_terms(instance, batch_size)
    assert forward == (4 * (n_users + n_items) + 3 * len(widths) * n_items) * width
    assert step == forward + (3 * len(widths) * n_items + 8 * (len(widths) + 1) * batch_size) * width
