"""Every registered model keeps the contract. A new model is tested by being registered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recbole_siger.parallel import shares
from recbole_siger.parallel.shares import Share
from recbole_siger.registry import MODELS
from recbole_siger.testing import CHECKS, check_model
from tests.conftest import MODEL_OPTIONS, first_batch, make_experiment, start_epoch

# What removes a model's own randomness from its loss; the generators of two devices draw different numbers.
WITHOUT_NOISE: dict[str, dict[str, Any]] = {
    "SIGER": {"noise_eps": 0.0},
    "BM3": {"dropout": 0.0},
    "FREEDOM": {"edge_dropout": 0.0},
    "MENTOR": {"noise_eps": 0.0},
    "DiffMM": {"keep_rate": 1.0},
    "RLMRec": {"keep_rate": 1.0},
    "KAR": {"keep_rate": 1.0},
    "LGMRec": {"hyper_noise": "none", "hyper_keep": 1.0},
    "MIGGT": {
        "n_samples": 0,
        **dict.fromkeys(("feature_dropout", "hidden_dropout", "user_dropout", "item_dropout"), 0.0),
        **dict.fromkeys(("edge_dropout", "output_dropout"), 0.0),
    },
}
# The same for graphs and relations that are drawn with the device's generator; other checks keep them.
ACROSS_DEVICES: dict[str, dict[str, Any]] = {
    **WITHOUT_NOISE,
    "LayerGCN": {"edge_dropout": 0.0},
    "SCALE": {"edge_dropout": 0.0, "relation_weight": 0.0},
}
# What a model needs to learn the checkerboard.
CHECKERBOARD: dict[str, dict[str, Any]] = {
    # More hops find the checkerboard without training.
    "MIGGT": {"n_ui_layers": 1, "modality_layers": [0, 0]},
    # With less weight of the hyperedges, the propagated features find the checkerboard without training.
    "LGMRec": {"hyper_weight": 2.0},
}

NEEDS_GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize(
    "check", [pytest.param(name, marks=NEEDS_GPU if "gpu" in name else []) for name in CHECKS]
)
@pytest.mark.parametrize("model", MODELS)
def test_contract(model: str, check: str) -> None:
    check_model(
        model,
        options=MODEL_OPTIONS.get(model),
        checkerboard=CHECKERBOARD.get(model),
        without_noise=(ACROSS_DEVICES if "gpu" in check else WITHOUT_NOISE).get(model),
        checks=[check],
    )


@pytest.mark.parametrize("model", MODELS)
def test_a_state_gives_the_same_scores_in_a_model_of_another_seed(model: str, tmp_path: Path) -> None:
    one, other = (make_experiment(tmp_path / str(seed), model, seed=seed).model.eval() for seed in (3, 5))
    assert not torch.equal(*(experiment.final_embeddings().user for experiment in (one, other)))
    other.load_state_dict(one.state_dict())
    for found, expected in zip(other.final_embeddings(), one.final_embeddings(), strict=True):
        assert torch.equal(found, expected)


# Their norm and their dropout are those of a share of the batch (docs/cluster.md).
OF_A_SHARE = ("VBPR", "BM3")


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("model", [name for name in MODELS if name not in OF_A_SHARE])
def test_the_losses_of_several_processes_average_to_those_of_one(
    model: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shares of a batch have different numbers of rows."""
    experiment = make_experiment(tmp_path, model)
    recommender, batch = experiment.model, first_batch(experiment)[:23]
    start_epoch(experiment)

    def losses(share: Share) -> torch.Tensor:
        monkeypatch.setattr(shares, "current_share", lambda: share)
        recommender.generator.manual_seed(5)
        recommender.on_epoch_start(0)  # which draws the graph of the epoch
        return torch.stack(shares.losses_of_share(recommender, recommender.calculate_loss, batch))

    whole = losses(Share(0, 1))
    parts = [losses(Share(rank, size)) for rank in range(size)]
    torch.testing.assert_close(torch.stack(parts).mean(dim=0), whole)
    assert not torch.allclose(parts[0], parts[1])


@pytest.mark.parametrize("model", [name for name in MODELS if name not in ("BM3", "SLMRec")])  # no BPR
def test_the_bpr_of_equal_scores_is_on_the_plateau(model: str, tmp_path: Path) -> None:
    """Otherwise patience would count from the first epoch on, as it did for DAMRS."""
    experiment = make_experiment(tmp_path, model)
    start_epoch(experiment)
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.zero_()
    losses = experiment.model.calculate_loss(first_batch(experiment))
    bpr = dict(zip(experiment.model.loss_names, losses, strict=True))["bpr"].item()
    assert bpr >= experiment.model.untrained_bpr * (1 - 1e-6)
