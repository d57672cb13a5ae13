"""MIG-GT against its equations, written as loops."""

from __future__ import annotations

from math import exp, log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_siger.errors import UserError
from recbole_siger.model.general_recommender import miggt
from recbole_siger.model.layers import dropout
from recbole_siger.model.sampled_attention import SampledAttention
from recbole_siger.parallel.shares import Share
from recbole_siger.training.experiment import Experiment
from tests.conftest import N_ITEMS, N_USERS, first_batch, make_experiment, make_toy, score_table
from tests.reference import twins
from tests.reference.baselines import (
    Array,
    assert_loss,
    assert_scores,
    batch_of,
    every_choice_of_modalities,
    numbers,
    scrambled,
    training_edges,
)
from tests.reference.test_diffusion import restarted

N_NODES = N_USERS + N_ITEMS
RATES = {
    "feature_dropout": 0.31,
    "hidden_dropout": 0.23,
    "user_dropout": 0.17,
    "item_dropout": 0.29,
    "edge_dropout": 0.37,
    "output_dropout": 0.11,
}


# ---- the twins


def z_rows(node: Array, drawn: list[Array], n: dict[str, Array], weight: float, prefix: str = "") -> Array:
    """All rows of Z of one node: .9 t + .1 softmax(q k / sqrt(a)) t."""
    t = np.stack([node, *drawn])
    query = twins.linear(t, n[f"{prefix}query.weight"], n[f"{prefix}query.bias"])
    key = twins.linear(t, n[f"{prefix}key.weight"], np.zeros(len(n[f"{prefix}key.weight"])))
    rows = []
    for s in range(len(t)):
        logits = [sum(query[s] * key[j]) / sqrt(len(query[s])) for j in range(len(t))]
        mass = sum(map(exp, logits))
        mixed = sum(exp(logit) / mass * row for logit, row in zip(logits, t, strict=True))
        rows.append((1 - weight) * t[s] + weight * mixed)
    return np.stack(rows)


class Twin:
    """One pass over the model; with a generator, a training pass with its dropout, in the model's order."""

    def __init__(self, experiment: Experiment, generator: torch.Generator | None = None) -> None:
        self.model, self.p, self.n = experiment.model, experiment.model.params, numbers(experiment)
        self.generator = generator
        interactions = twins.interactions(training_edges(experiment), N_USERS, N_ITEMS)
        adjacency = twins.bipartite_adjacency(interactions)
        for node in range(N_NODES):
            if node not in (0, N_USERS):
                adjacency[node, node] += 1
        self.adjacency = twins.normalized(adjacency)
        self.nodes = self.all_nodes()
        self.drawn = self.all_draws()
        self.final = np.stack([self.z(node)[0] for node in range(N_NODES)])

    def dropped(self, x: Array, rate: float) -> Array:
        if self.generator is None:
            return x
        kept = (torch.rand(x.shape, generator=self.generator) >= rate).numpy()
        return np.where(kept, x / (1 - rate), 0)

    def thinned(self) -> Array:
        """Each stored entry, in the order of rows, is kept with its probability and divided by it."""
        if self.generator is None:
            return self.adjacency
        result, (row, col) = np.zeros_like(self.adjacency), np.nonzero(self.adjacency)
        keep = 1 - self.p.edge_dropout
        drawn = torch.rand(len(row), generator=self.generator) < keep
        for i, j, kept in zip(row, col, drawn.tolist(), strict=True):
            result[i, j] = self.adjacency[i, j] / keep if kept else 0
        return result

    def activated(self, x: Array, name: str) -> Array:
        """Batch normalisation, by the rows in training and by the running numbers otherwise, then PReLU."""
        result = np.zeros_like(x)
        for c in range(x.shape[1]):
            mean, variance = (self.n[f"{name}.0.running_{kind}"][c] for kind in ("mean", "var"))
            if self.generator is not None:
                mean = sum(x[:, c]) / len(x)
                variance = sum((x[:, c] - mean) ** 2) / len(x)
            scale, shift = self.n[f"{name}.0.weight"][c], self.n[f"{name}.0.bias"][c]
            for i in range(len(x)):
                value = (x[i, c] - mean) / sqrt(variance + 1e-5) * scale + shift
                result[i, c] = value if value > 0 else self.n[f"{name}.1.weight"][0] * value
        return result

    def content(self, m: str) -> Array:
        raw = self.n[f"features.{m}"]
        if m != "image":
            return raw
        if "text" in self.model.modalities:
            mixing = self.model.mixing.double().numpy()
            raw = twins.linear(raw, mixing, np.zeros(len(mixing)))
        return twins.unit(raw)

    def all_nodes(self) -> Array:
        tables, none = {}, np.zeros(self.p.hidden_size)
        for m in self.model.modalities:
            x = self.dropped(self.content(m)[1:], self.p.feature_dropout)
            hidden = twins.linear(x, self.n[f"perceptrons.{m}.inner.weight"], none)
            hidden = self.dropped(
                self.activated(hidden, f"perceptrons.{m}.inner_rest"), self.p.hidden_dropout
            )
            weight = self.n[f"perceptrons.{m}.outer.weight"]
            mapped = self.activated(
                twins.linear(hidden, weight, np.zeros(len(weight))), f"perceptrons.{m}.outer_rest"
            )
            tables[m] = self.dropped(mapped, self.p.item_dropout)
        start = np.zeros((N_NODES, self.p.embedding_size))
        start[:N_USERS] = self.dropped(self.n["user_embedding.weight"], self.p.user_dropout)
        total = restarted(self.thinned(), start, self.p.n_ui_layers, self.p.restart)
        for m, table in tables.items():
            start = np.zeros((N_NODES, self.p.embedding_size))
            start[N_USERS + 1 :] = table
            total = total + restarted(self.thinned(), start, self.model.hops[m], self.p.restart)
        return self.dropped(total, self.p.output_dropout)

    def all_draws(self) -> Array:
        if self.generator is None:
            return np.concatenate([self.n["user_draws"], self.n["item_draws"]]).astype(int)
        shape = (N_NODES, self.p.n_samples)
        return torch.randint(1, N_ITEMS, shape, generator=self.generator).numpy()

    def z(self, node: int) -> Array:
        drawn = [self.nodes[N_USERS + item] for item in self.drawn[node] if item]
        return z_rows(self.nodes[node], drawn, self.n, self.p.attention_weight, "attention.")


def build(tmp_path: Path, modalities: tuple[str, ...] = ("image", "text"), **options: Any) -> Experiment:
    """Every parameter is drawn, and so are the running numbers of the batch normalisations."""
    experiment = scrambled(tmp_path, "MIGGT", modalities, **{**RATES, "reg_weight": 0.07, **options})
    generator = torch.Generator().manual_seed(17)
    with torch.no_grad():
        for name, buffer in experiment.model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(generator=generator)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=generator)
    return experiment


# ---- the model


@every_choice_of_modalities
def test_scores_and_loss(tmp_path: Path, modalities: tuple[str, ...]) -> None:
    experiment = build(tmp_path, modalities, attention_weight=0.3)
    model, whole = experiment.model, Twin(experiment)
    assert_scores(experiment, whole.final[:N_USERS], whole.final[N_USERS:])

    generator = torch.Generator()
    generator.set_state(model.generator.get_state())
    twin, (batch, users, pos, neg) = Twin(experiment, generator), batch_of(experiment)
    bpr = unsmooth = 0.0
    for u, i, j in zip(users, pos, neg, strict=True):
        margin = sum(twin.final[u] * (twin.final[N_USERS + i] - twin.final[N_USERS + j]))
        bpr += log(1 + exp(-margin))
        logits = [sum(twin.final[u] * row) for row in twin.z(N_USERS + i)]
        assert len(logits) == 4
        unsmooth -= logits[0] - log(sum(map(exp, logits)))
    kept = [row for node, row in enumerate(twin.final) if node not in (0, N_USERS)]
    expected = {
        "bpr": bpr,
        "unsmooth": unsmooth,
        "regularization": 0.07 / 2 * sum(a * a for row in kept for a in row),
    }
    model.train()
    assert_loss(model.loss_terms(batch), expected)
    assert torch.equal(model.generator.get_state(), generator.get_state())  # nothing else is drawn


def test_evaluations_agree_and_training_does_not(tmp_path: Path) -> None:
    model = build(tmp_path).model
    state = model.generator.get_state()
    tables = []
    for _ in range(2):
        model.train()  # drops the cache
        tables.append(model.eval().final_embeddings().item)
    assert torch.equal(*tables)
    assert torch.equal(model.generator.get_state(), state)
    model.train()
    assert not torch.equal(model.forward().item, model.forward().item)


def test_evaluations_can_draw_anew(tmp_path: Path) -> None:
    model, tables = build(tmp_path, resample_evaluation=True).model, []
    for _ in range(2):
        model.train()
        tables.append(model.eval().final_embeddings().item)
    assert not torch.equal(*tables)


def test_the_draws_of_evaluations_are_state(tmp_path: Path) -> None:
    """A model with other draws scores as the stored one after loading."""
    one, other = (make_experiment(tmp_path, "MIGGT", seed=seed) for seed in (5, 7))
    assert not torch.equal(one.model.item_draws, other.model.item_draws)
    other.model.mixing.copy_(one.model.mixing)
    other.model.load_state_dict(one.model.state_dict())
    assert torch.equal(score_table(one), score_table(other))


def test_no_draw_is_padding_and_each_item_is_drawn_equally_often(tmp_path: Path) -> None:
    model = build(tmp_path, n_samples=97).model
    stored = torch.cat((model.user_draws, model.item_draws)).long()
    fresh = torch.cat([model.train().draw() for _ in range(5)])
    for drawn in (stored, fresh):
        count = torch.bincount(drawn.flatten(), minlength=N_ITEMS).double()
        assert len(count) == N_ITEMS
        assert count[0] == 0
        expected = drawn.numel() / (N_ITEMS - 1)
        np.testing.assert_allclose(count[1:], expected, atol=4.5 * expected**0.5)
    assert not torch.equal(model.draw(), model.draw())


def test_padding_is_no_row_of_the_batch_normalisation(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "MIGGT", feature_dropout=0.0).model
    model.train().encode_nodes()
    inner = model.perceptrons["text"].inner(model.content("text")[1:])
    mean = model.perceptrons["text"].inner_rest[0].running_mean
    torch.testing.assert_close(mean, 0.1 * inner.mean(dim=0), rtol=1e-4, atol=1e-6)
    nodes = model.eval().encode_nodes()
    content = nodes - model.propagate(
        torch.cat((model.user_embedding.weight, torch.zeros(N_ITEMS, 7))), model.params.n_ui_layers
    )
    torch.testing.assert_close(content[[0, N_USERS]], torch.zeros(2, 7))


def test_each_propagation_has_lost_entries_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three propagations, two steps: six different graphs, none normalised again; none in evaluation."""
    model, seen = build(tmp_path, edge_dropout=0.25).model, []
    plain = miggt.drop_entries

    def recorded(matrix: Any, keep: float, **options: Any) -> Any:
        assert "rescale" not in options
        seen.append((keep, plain(matrix, keep, **options)))
        return seen[-1][1]

    monkeypatch.setattr(miggt, "drop_entries", recorded)
    model.train()
    model.forward()
    model.forward()
    values = [graph.pair()[0].val for _, graph in seen]
    assert [keep for keep, _ in seen] == [0.75] * 6
    assert len({tuple(value.tolist()) for value in values}) == 6
    for value in values:
        kept = value != 0
        torch.testing.assert_close(value[kept], model.norm_adj.val[kept] / 0.75)
    seen.clear()
    model.eval().forward()
    assert [graph is model.norm_adj for _, graph in seen] == [True] * 3


def test_nodes_without_rows_have_numbers_as_scores(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    users, items = (set(ids.tolist()) for ids in experiment.model.train_edges)
    assert (N_USERS - 1) not in users
    assert (N_ITEMS - 1) not in items
    scores = score_table(experiment)
    assert scores.isfinite().all()
    assert scores[N_USERS - 1].std() > 0
    assert scores[:, N_ITEMS - 1].std() > 0


@pytest.mark.parametrize(
    ("modalities", "options", "expected"),
    [
        (["image", "text"], {}, {"image": 1, "text": 2}),
        (["text", "audio"], {"n_text_layers": 3}, {"text": 3, "audio": 2}),
        (["image"], {"n_image_layers": 0}, {"image": 0}),
        (["audio", "image"], {"modality_layers": [4, 0]}, {"audio": 4, "image": 0}),
    ],
)
def test_hops(
    tmp_path: Path, modalities: list[str], options: dict[str, Any], expected: dict[str, int]
) -> None:
    toy = make_toy(("image", "text", "audio"))
    model = make_experiment(tmp_path, "MIGGT", toy, modalities=modalities, **options).model
    assert model.hops == expected


def test_a_wrong_number_of_hops_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"modality_layers=\[1\]: give one number each for image, text"):
        make_experiment(tmp_path, "MIGGT", modality_layers=[1])


def test_images_have_the_width_of_texts_and_rows_of_length_1(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "MIGGT").model
    image, raw = model.content("image"), model.raw_features["image"]
    assert image.shape == model.raw_features["text"].shape
    torch.testing.assert_close(image.norm(dim=1), raw.any(dim=1).float())
    assert torch.equal(model.content("text"), model.raw_features["text"])
    assert not image.requires_grad
    more = {m: torch.cat((x, x[5:7])) for m, x in model.raw_features.items()}
    sizes = {"n_users": N_USERS, "n_items": N_ITEMS + 2, "train_edges": model.train_edges}
    seed = model.generator.initial_seed()
    larger = type(model).from_tensors(model.params, **sizes, features=more, seed=seed)
    assert torch.equal(larger.mixing, model.mixing)
    alone = make_experiment(tmp_path, "MIGGT", modalities=["image"]).model
    torch.testing.assert_close(alone.content("image"), torch.nn.functional.normalize(raw, dim=1))


def test_the_learning_rate_falls_to_its_floor(tmp_path: Path) -> None:
    model = make_experiment(tmp_path, "MIGGT", lr_decay=0.5, lr_floor=0.2).model
    assert [model.learning_rate_factor(epoch) for epoch in range(4)] == [1, 0.5, 0.25, 0.2]


def test_the_terms_of_two_processes_average_to_those_of_one(tmp_path: Path) -> None:
    experiment = build(tmp_path)
    model, batch, terms = experiment.model, first_batch(experiment), []
    state = model.generator.get_state()
    for share in (Share(0, 1), Share(0, 2), Share(1, 2)):
        model.generator.set_state(state)
        model.share = share
        terms.append({name: term.item() for name, term in model.loss_terms(batch).items()})
    whole, first, second = terms
    assert {name: (first[name] + second[name]) / 2 for name in whole} == pytest.approx(whole, rel=1e-5)


# ---- the shared pieces


def attention_of(width: int, size: int, weight: float) -> tuple[SampledAttention, dict[str, Array]]:
    torch.manual_seed(3)
    attention = SampledAttention(width, size, weight).double()
    return attention, {name: x.detach().numpy() for name, x in attention.state_dict().items()}


@pytest.mark.parametrize("n_samples", [0, 1, 5])
def test_attention_and_its_gradients(n_samples: int) -> None:
    attention, n = attention_of(3, 4, 0.6)
    generator = torch.Generator().manual_seed(5)
    nodes, items, users = (
        torch.randn(rows, 3, generator=generator, dtype=torch.float64).requires_grad_() for rows in (7, 11, 7)
    )
    drawn = torch.randint(0, 11, (7, n_samples), generator=generator)
    drawn[2] = 0  # nothing but padding
    rows = []
    for node in range(7):
        of_items = [items[item].detach().numpy() for item in drawn[node] if item]
        rows.append(z_rows(nodes[node].detach().numpy(), of_items, n, 0.6))
    found = attention(nodes, items, drawn)
    np.testing.assert_allclose(found.detach().numpy(), [z[0] for z in rows], rtol=1e-9)
    np.testing.assert_allclose(found[2].detach().numpy(), nodes[2].detach().numpy(), rtol=1e-12)
    scores = attention.scores(users, nodes, items, drawn)
    assert scores.shape == (7, n_samples + 1)
    for node in range(7):
        present = [0, *(1 + s for s in range(n_samples) if drawn[node, s])]
        want = rows[node] @ users[node].detach().numpy()
        np.testing.assert_allclose(scores[node, present].detach().numpy(), want, rtol=1e-9)
    assert torch.autograd.gradcheck(lambda a, b: attention(a, b, drawn), (nodes, items))
    assert torch.autograd.gradcheck(lambda u, a, b: attention.scores(u, a, b, drawn), (users, nodes, items))


def test_attention_by_hand() -> None:
    """Equal logits: .75 of the node and .25 of the mean of the node and its two items."""
    attention, _ = attention_of(1, 2, 0.25)
    with torch.no_grad():
        attention.query.weight.zero_()
        attention.query.bias.zero_()
    items, drawn = torch.tensor([[9.0], [0.0], [6.0]]).double(), torch.tensor([[1, 2]])
    node, user = torch.tensor([[3.0]]).double(), torch.tensor([[2.0]]).double()
    assert attention(node, items, drawn).item() == pytest.approx(0.75 * 3 + 0.25 * 3)
    scores = attention.scores(user, node, items, drawn).tolist()
    assert scores[0] == pytest.approx([6, 2 * 0.25 * 3, 2 * (0.75 * 6 + 0.25 * 3)])


def test_dropout() -> None:
    x, generator = torch.full((997, 7), 3.0), torch.Generator().manual_seed(3)
    dropped = dropout(x, 0.25, generator=generator)
    assert set(dropped.unique().tolist()) == {0.0, 4.0}
    assert (dropped == 0).double().mean().item() == pytest.approx(
        0.25, abs=4 * (0.25 * 0.75 / x.numel()) ** 0.5
    )
    assert torch.equal(dropped, dropout(x, 0.25, generator=generator.manual_seed(3)))
    with pytest.raises(ValueError, match=r"rate must be in \[0, 1\), got 1"):
        dropout(x, 1)
