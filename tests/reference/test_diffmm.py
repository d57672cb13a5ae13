"""DiffMM against its equations, written as loops."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recbole_siger.errors import UserError
from recbole_siger.model.denoising import Denoiser, noise_schedule
from recbole_siger.testing.experiments import graphs_of
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, first_batch, make_experiment, make_toy
from tests.reference import backbone, diffusion_rows, twins
from tests.reference.baselines import (
    Array,
    assert_loss,
    assert_scores,
    batch_of,
    every_choice_of_modalities,
    scrambled,
    training_edges,
)

OPTIONS: dict[str, Any] = {"n_ui_layers": 2, "denoise_batch": 17}


def looped(edges: Array) -> Array:
    """A graph of users and items with self loops but at the padding, normalised."""
    adjacency = twins.bipartite_adjacency(twins.interactions(edges, N_USERS, N_ITEMS))
    for node in range(len(adjacency)):
        if node not in (0, N_USERS):
            adjacency[node, node] += 1
    return twins.normalized(adjacency)


def generated(experiment: Experiment, number: int) -> Array:
    """The generated edges of a modality, read from the state."""
    table = experiment.model.state_dict()["diffusion.generated"][number].numpy()
    pairs = [(user, item) for user in range(N_USERS) for item in table[user] if item]
    return np.array(pairs).T


def summed(graph: Array, x: Array, n_layers: int) -> Array:
    layer, total = x, x
    for _ in range(n_layers):
        layer = twins.product(graph, layer)
        total = total + layer
    return total


def projected(model: Any, modality: str) -> Array:
    layer, x = model.projections[modality], model.raw_features[modality].double().numpy()
    weight = layer.weight.detach().double().numpy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.detach().double().numpy()
    found = twins.linear(x, weight, bias)
    return np.where(found > 0, found, 0.2 * found) if model.params.projection == "leaky" else found


def encoded_by_hand(experiment: Experiment, graphs: list[Array]) -> tuple[Array, list[Array]]:
    """The final nodes, and the views over the generated graphs."""
    model, p = experiment.model, experiment.model.params
    n = {name: x.detach().double().numpy() for name, x in model.named_parameters()}
    user, item, whole = (
        n["user_embedding.weight"],
        n["item_embedding.weight"],
        looped(training_edges(experiment)),
    )
    share = np.exp(n["modality_weight"]) / np.exp(n["modality_weight"]).sum()
    fused, views = np.zeros((N_USERS + N_ITEMS, user.shape[1])), []
    for number, modality in enumerate(model.modalities):
        nodes = np.concatenate((user, twins.unit(projected(model, modality))))
        first = twins.product(whole, nodes)
        again = twins.product(whole, np.concatenate((first[:N_USERS], item)))
        third = twins.product(graphs[number], np.concatenate((user, item)))
        fused = fused + share[number] * (first + again + p.generated_weight * third)
        views.append(summed(whole, twins.product(graphs[number], nodes), p.n_ui_layers))
    return summed(whole, fused, p.n_ui_layers) + p.residual_weight * twins.unit(fused), views


@every_choice_of_modalities
@pytest.mark.parametrize("projection", ["leaky", "linear"])
def test_scores_use_whole_generated_graphs(
    tmp_path: Path, modalities: tuple[str, ...], projection: str
) -> None:
    """The training mode has thinned graphs; an evaluation has not."""
    experiment = scrambled(tmp_path, "DiffMM", modalities, projection=projection, n_generated=2, **OPTIONS)
    graphs = [looped(generated(experiment, number)) for number in range(len(modalities))]
    thinned = [backbone.dense(graph) for graph in experiment.model.thinned.values()]
    assert all((one != other).any() for one, other in zip(graphs, thinned, strict=True))
    final, _ = encoded_by_hand(experiment, graphs)
    assert_scores(experiment, final[:N_USERS], final[N_USERS:])


@every_choice_of_modalities
@pytest.mark.parametrize("contrast", ["views", "final"])
def test_loss(tmp_path: Path, modalities: tuple[str, ...], contrast: str) -> None:
    """Thinned graphs, all rows but the padding as keys, repeated rows of the batch as they come."""
    weights = {"contrast_weight": 0.7, "contrast_temperature": 0.4, "reg_weight": 0.01}
    experiment = scrambled(tmp_path, "DiffMM", modalities, contrast=contrast, **weights, **OPTIONS)
    model = experiment.model
    final, views = encoded_by_hand(experiment, [backbone.dense(graph) for graph in model.thinned.values()])
    batch, users, pos, neg = batch_of(experiment)
    found = model.loss_terms(batch)
    tables = [t.weight.detach().double().numpy()[1:] for t in (model.user_embedding, model.item_embedding)]
    expected = {
        "bpr": backbone.ranking((final[:N_USERS], final[N_USERS:]), users, pos, neg),
        "regularization": 0.01 * sum((table**2).sum() for table in tables),
    }
    pairs = [(final, view) for view in views] if contrast == "final" else [*combinations(views, 2)]
    if pairs:
        expected["contrast"] = 0.7 * sum(
            backbone.contrast(query[rows], key[rows], ids.tolist(), 0.4)
            for query, key in pairs
            for rows, ids in ((slice(N_USERS), users), (slice(N_USERS, None), pos))
        )
    assert_loss(found, expected)


def test_thinned_graphs_are_rescaled_and_stay_for_an_epoch(tmp_path: Path) -> None:
    experiment = scrambled(tmp_path, "DiffMM", ("image", "text"), keep_rate=0.4, n_generated=3)
    model = experiment.model
    shares = []
    for number, graph in enumerate(model.thinned.values()):
        whole, drawn = looped(generated(experiment, number)), backbone.dense(graph)
        np.testing.assert_allclose(drawn[drawn > 0], whole[drawn > 0] / 0.4, rtol=1e-6)
        shares.append((drawn > 0).sum() / (whole > 0).sum())
    assert np.mean(shares) == pytest.approx(0.4, abs=0.08)
    kept = dict(model.thinned)
    model.loss_terms(first_batch(experiment))
    assert all(model.thinned[m] is graph for m, graph in kept.items())


# ---- the diffusion


def test_schedule() -> None:
    """The weight of step 0 is 1: SNR at step -1 is none of the schedule's."""
    found = noise_schedule(5, 1e-5, 2e-3)
    for name, values in zip(found._fields, found, strict=True):
        expected = [step[name] for step in diffusion_rows.schedule(5, 1e-5, 2e-3)]
        assert values.tolist() == pytest.approx(expected, rel=1e-6), name
    assert [round(x, 5) for x in found.kept.tolist()] == [0.9999, 0.9994, 0.99891, 0.99841, 0.99791]
    assert found.weight.round().tolist() == [1, 8326, 760, 285, 149]
    deviation = (1 - found.kept.double()).sqrt()
    assert [round(x, 3) for x in deviation[[0, 4]].tolist()] == [0.01, 0.046]
    assert (found.from_clean[0].item(), found.from_noisy[0].item()) == (pytest.approx(1), 0)
    for wrong in ((0, 0.1, 0.2), (2, 0.2, 0.1), (2, 0.0, 0.1), (2, 0.1, 1.0)):
        with pytest.raises(ValueError, match="expected n_steps >= 1 and 0 < low <= high < 1"):
            noise_schedule(*wrong)


def test_denoiser_and_its_start() -> None:
    torch.manual_seed(3)
    denoiser = Denoiser(401, 211)
    for name, n_ends in {"inner": 621, "inner_time": 621, "outer": 611, "time_weight": 20}.items():
        deviation = getattr(denoiser, name).std().item()
        assert deviation == pytest.approx((2 / n_ends) ** 0.5, rel=0.2 if name == "time_weight" else 0.05)
    for name in ("inner_bias", "outer_bias"):
        assert getattr(denoiser, name).std().item() == pytest.approx(1e-3, rel=0.2)
    small = Denoiser(7, 5)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.normal_(std=0.6)
    x, step = torch.randn(4, 6), torch.tensor([4, 0, 1, 3])
    expected = [
        diffusion_rows.denoised(diffusion_rows.weights(small), row.double().numpy(), int(t))
        for row, t in zip(x, step, strict=True)
    ]
    np.testing.assert_allclose(small(x, step).detach().numpy(), expected, rtol=1e-4, atol=1e-5)


def rows_by_hand(experiment: Experiment) -> Array:
    """The user-item matrix without the padding item."""
    return twins.interactions(training_edges(experiment), N_USERS, N_ITEMS)[:, 1:]


def test_denoising_loss(tmp_path: Path) -> None:
    experiment = scrambled(
        tmp_path, "DiffMM", ("image", "text"), denoise_align_weight=0.3, denoise_dropout=0.25
    )
    model, generator = experiment.model, torch.Generator().manual_seed(5)
    users, step = torch.tensor([3, N_USERS - 1, 7, 11, 2]), torch.tensor([0, 4, 1, 2, 3])
    noise = torch.randn(5, N_ITEMS - 1, generator=generator)
    kept = torch.rand(5, N_ITEMS - 1, generator=generator) < 0.75
    content, ids = model.project_features("text").detach(), model.item_embedding.weight.detach()
    found = model.diffusion.loss("text", users, step, noise, kept, content, ids)
    expected = diffusion_rows.loss(
        diffusion_rows.weights(model.diffusion.denoisers["text"]),
        rows_by_hand(experiment)[users],
        tuple(x.numpy() for x in (step, noise.double(), kept)),
        diffusion_rows.schedule(5, 1e-5, 2e-3),
        (projected(model, "text"), ids.double().numpy()),
        model.params,
    )
    assert found.item() == pytest.approx(expected, rel=2e-5)


def test_draws_are_of_their_distributions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_experiment(tmp_path, "DiffMM", denoise_dropout=0.25).model
    seen: list[tuple[torch.Tensor, ...]] = []

    def record(modality: str, *rest: torch.Tensor) -> torch.Tensor:
        seen.append(rest)
        return torch.zeros(())

    monkeypatch.setattr(model.diffusion, "loss", record)
    for _ in range(60):
        for _ in model.auxiliary_losses(0):
            pass
    passes = [users for users, *_ in seen[::2]]
    assert all(sorted(users.tolist()) == list(range(1, N_USERS)) for users in passes)  # each user once
    assert len({tuple(users.tolist()) for users in passes}) > 50
    steps = torch.cat([step for _, step, *_ in seen]).bincount().double()
    assert (steps / steps.sum() - 0.2).abs().max() < 0.02
    noise = torch.cat([x.flatten() for _, _, x, *_ in seen])
    assert (noise.mean().abs() < 0.02, noise.std().item()) == (True, pytest.approx(1, abs=0.02))
    kept = torch.cat([x.flatten() for _, _, _, x, *_ in seen]).double().mean().item()
    assert kept == pytest.approx(0.75, abs=0.01)


def test_sampling_stays_exact_in_the_hidden_space(tmp_path: Path) -> None:
    """From the row itself, without noise and dropout, in training mode too; the padding is never chosen."""
    experiment = scrambled(tmp_path, "DiffMM", ("image", "text"), n_generated=3)
    model, steps = experiment.model, diffusion_rows.schedule(5, 1e-5, 2e-3)
    with torch.no_grad():
        for denoiser in model.diffusion.denoisers.values():
            denoiser.outer_bias[0] = 1e6
    model.diffusion.generate()
    for number, denoiser in enumerate(model.diffusion.denoisers.values()):
        w = diffusion_rows.weights(denoiser)
        expected = [diffusion_rows.restored(w, row, steps) for row in rows_by_hand(experiment)]
        users = torch.arange(N_USERS)
        found = denoiser.restore(
            *model.diffusion.items_of(users), model.diffusion.schedule, denoiser.hidden_products()
        )
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-3, atol=1e-4)
        table = model.diffusion.generated[number]
        assert not table[0].any()
        best = [np.argsort(-row, kind="stable")[:3] + 1 for row in np.array(expected)[1:]]
        assert [set(row) for row in table[1:].tolist()] == [set(row.tolist()) for row in best]


def test_known_items_are_not_masked(tmp_path: Path) -> None:
    experiment = scrambled(tmp_path, "DiffMM", ("text",))
    model = experiment.model
    user, item = training_edges(experiment).T[0].tolist()
    with torch.no_grad():
        model.diffusion.denoisers["text"].outer_bias[item] = 1e6
    model.diffusion.generate()
    assert model.diffusion.generated[0, user].tolist() == [item]


# ---- auxiliary steps


def copies(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def test_denoisers_and_the_rest_do_not_move_each_other(tmp_path: Path) -> None:
    """One Adam equals separate ones, also after both kinds of steps have filled its moments."""
    experiment = make_experiment(tmp_path, "DiffMM")
    model, optimizer = experiment.model, experiment.trainer.optimizer
    denoisers = {name for name, _ in model.named_parameters() if "denoisers" in name}
    for _ in range(2):
        before = copies(model)
        model.train()
        for terms in model.auxiliary_losses(0):
            optimizer.zero_grad()
            sum(terms.values()).backward()
            assert model.item_embedding.weight.grad is None
            assert all(p.grad is None for p in model.projections.parameters())
            optimizer.step()
        moved = changed(model, before)
        assert moved <= denoisers
        assert {name.split(".")[-1] for name in moved} == {name.split(".")[-1] for name in denoisers}
        before = copies(model)
        optimizer.zero_grad()
        sum(model.loss_terms(first_batch(experiment)).values()).backward()
        optimizer.step()
        assert changed(model, before)
        assert not changed(model, before) & denoisers


def test_generated_edges_are_part_of_the_state(tmp_path: Path) -> None:
    experiment = scrambled(tmp_path, "DiffMM", ("image", "text"), n_generated=2)
    model = experiment.model
    state = {key: value.clone() for key, value in model.state_dict().items()}
    graphs = {name: graph for name, graph in graphs_of(model).items() if "generated" in name}
    assert state["diffusion.generated"][:, 1:].all()
    fresh = make_experiment(tmp_path, "DiffMM", modalities=["image", "text"], n_generated=2).model
    before = graphs_of(fresh)
    assert (before["generated_graphs.text"] == np.diag(np.diag(before["generated_graphs.text"]))).all()
    fresh.load_state_dict(state)
    for name, graph in graphs.items():
        np.testing.assert_array_equal(graphs_of(fresh)[name], graph)
    model.eval()
    fresh.eval()
    assert torch.equal(fresh.final_embeddings().item, model.final_embeddings().item)


def test_large_scores_have_a_finite_loss(tmp_path: Path) -> None:
    """The logarithm of a sigmoid underflows; exponentials without a shift overflow."""
    experiment = scrambled(tmp_path, "DiffMM", ("image", "text"), contrast_temperature=0.005)
    with torch.no_grad():
        experiment.model.user_embedding.weight.mul_(1e4)
    terms = experiment.model.loss_terms(first_batch(experiment))
    assert all(term.isfinite() for term in terms.values())
    assert terms["bpr"].item() > 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_generated": N_ITEMS},
            f"n_generated={N_ITEMS}: the dataset has {N_ITEMS - 1} items; ask for fewer",
        ),
        ({"noise_min": 0.5, "noise_max": 0.1}, "noise_min=0.5 is more than noise_max=0.1; lower noise_min"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make_experiment(tmp_path, "DiffMM", make_toy(), **options)
