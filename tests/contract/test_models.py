"""What every registered model promises. A new model is tested by being registered."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.data.interaction import Interaction
from torch import Tensor, nn

from recbole_siger.config import Config
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.registry import MODELS
from recbole_siger.training.experiment import Experiment, build_experiment
from tests.conftest import (
    N_ITEMS,
    N_USERS,
    Toy,
    first_batch,
    make_experiment,
    make_toy,
    random_features,
    score_table,
    start_epoch,
    train_steps,
)

# What takes a model's own randomness out of its loss; the generators of two devices draw different numbers.
WITHOUT_NOISE: dict[str, dict[str, Any]] = {
    "SIGER": {"noise_eps": 0.0},
    "BM3": {"dropout": 0.0},
    "FREEDOM": {"edge_dropout": 0.0},
}
# What a model needs to learn the checkerboard.
CHECKERBOARD: dict[str, dict[str, Any]] = {}

pytestmark = pytest.mark.parametrize("model", MODELS)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a model holds: parameters, buffers and plain attributes, also within dicts."""
    found: dict[str, Tensor] = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            entries = value.items() if isinstance(value, dict) else [("", value)]
            if not name.startswith("_"):
                found |= {f"{prefix}.{name}.{key}": x for key, x in entries if isinstance(x, Tensor)}
    return found


def graphs_of(model: nn.Module) -> dict[str, np.ndarray]:
    """Every sparse matrix that a model holds, dense; a stored transpose is one of its own."""
    graphs = {}
    for name, module in model.named_modules():
        if isinstance(module, SparseMatrix):
            rows, columns = module.shape
            graphs[name] = csr_to_dense(module.crow, module.col, module.val, columns)
            if not module.symmetric:
                transposed = (module.transposed_crow, module.transposed_col, module.transposed_val)
                graphs[f"{name}.transposed"] = csr_to_dense(*transposed, rows)
    for name, value in tensors_of(model).items():
        if value.layout != torch.strided:
            graphs[name] = value.detach().to_dense().cpu().numpy()
    return graphs


def csr_to_dense(crow: Tensor, col: Tensor, val: Tensor, columns: int) -> np.ndarray:
    dense = np.zeros((len(crow) - 1, columns), dtype=np.float32)
    for row in range(len(crow) - 1):
        for place in range(int(crow[row]), int(crow[row + 1])):
            dense[row, col[place]] += val[place].item()
    return dense


def test_loss_terms_are_finite_scalars_with_names(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    start_epoch(experiment)
    terms = experiment.model.calculate_loss(first_batch(experiment))
    assert isinstance(terms, tuple)
    assert all(term.shape == () and term.isfinite() and term.dtype == torch.float32 for term in terms)
    names = experiment.model.loss_names
    assert len(names) == len(terms) == len(set(names))


def test_full_sort_predict_agrees_with_predict(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    train_steps(experiment, 2)
    instance, users = experiment.model.eval(), torch.tensor([29, 1, 7, 7, 30])
    scores = instance.full_sort_predict(Interaction({instance.USER_ID: users}))
    assert scores.shape == (len(users) * N_ITEMS,)
    for row, user in enumerate(users):
        pairs = {instance.USER_ID: user.repeat(N_ITEMS), instance.ITEM_ID: torch.arange(N_ITEMS)}
        expected = instance.predict(Interaction(pairs))
        assert expected.shape == (N_ITEMS,)
        torch.testing.assert_close(scores[row * N_ITEMS : (row + 1) * N_ITEMS], expected)
    assert scores.reshape(len(users), N_ITEMS).std(dim=0).min() > 0  # users differ


def test_every_parameter_learns_or_is_declared_frozen(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    instance = experiment.model
    start_epoch(experiment)
    torch.stack(instance.calculate_loss(first_batch(experiment))).sum().backward()
    parameters = dict(instance.named_parameters())
    still = {name for name, p in parameters.items() if p.grad is None or not p.grad.any()}
    assert still == set(instance.frozen_parameters)
    assert all(p.grad.isfinite().all() for p in parameters.values() if p.grad is not None)


def test_the_seed_decides_the_scores(tmp_path: Path, model: str) -> None:
    def trained(seed: int) -> Tensor:
        experiment = make_experiment(tmp_path, model, seed=seed)
        experiment.train()
        return score_table(experiment)

    first = trained(2027)
    assert torch.equal(first, trained(2027))
    assert not torch.equal(first, trained(2029))


def test_a_saved_model_scores_as_before(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    experiment.run.write_config(experiment.config.effective())
    experiment.train()
    expected = score_table(experiment)

    fresh = build_experiment(Config(config_dict=experiment.run.read_config()), experiment.run)
    assert not torch.equal(score_table(fresh), expected)
    fresh.trainer.load_model(experiment.run)
    assert torch.equal(score_table(fresh), expected)


def test_padding_is_never_recommended(tmp_path: Path, model: str) -> None:
    """Even if the model puts it first."""
    experiment = make_experiment(tmp_path, model)
    instance, trainer = experiment.model, experiment.trainer
    honest, tops = instance.full_sort_predict, []

    def tempted(interaction: Interaction) -> Tensor:
        scores = honest(interaction).reshape(-1, N_ITEMS)
        scores[:, 0] = scores.max() + 1
        return scores.flatten()

    def collect(scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor) -> None:
        tops.append(scores.topk(5).indices)
        type(trainer.eval_collector).eval_batch_collect(
            trainer.eval_collector, scores, interaction, positive_u, positive_i
        )

    instance.full_sort_predict, trainer.eval_collector.eval_batch_collect = tempted, collect
    trainer.eval_collector.data_collect(experiment.train_data)
    trainer.evaluate(experiment.test_data, load_best_model=False)
    top = torch.cat(tops)
    assert len(top) == len(experiment.test_data.uid_list) > N_USERS // 2
    assert (top > 0).all()
    trained = {(int(u), int(i)) for u, i in instance.train_edges.T}
    recommended = {
        (int(u), int(i)) for u, row in zip(experiment.test_data.uid_list, top, strict=True) for i in row
    }
    assert not trained & recommended


def test_no_graph_touches_padding(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    start_epoch(experiment)  # some draw a graph for each epoch
    for name, graph in graphs_of(experiment.model).items():
        assert graph.any(), name
        for axis, size in enumerate(graph.shape):
            assert size in (N_USERS, N_ITEMS, N_USERS + N_ITEMS), name
            padding = [0, N_USERS] if size == N_USERS + N_ITEMS else [0]
            assert not graph.take(padding, axis=axis).any(), name


def test_validation_and_test_interactions_do_not_leak(tmp_path: Path, model: str) -> None:
    experiments, states, losses = [], [], []
    for seed in (1, 2):
        toy = make_toy(complete=True, eval_seed=seed)
        experiment = make_experiment(tmp_path / str(seed), model, toy)
        experiments.append(experiment)
        states.append(
            {name: x.detach().to_dense().clone() for name, x in tensors_of(experiment.model).items()}
        )
        losses.append(train_steps(experiment, 5))
    one, other = experiments
    assert one.dataset.item_tokens == other.dataset.item_tokens
    assert one.dataset.user_tokens == other.dataset.user_tokens
    for split in ("valid_data", "test_data"):
        edges = [getattr(e, split)._dataset.train_edges for e in experiments]
        assert not torch.equal(*edges), "the two toys must differ"
    assert states[0].keys() == states[1].keys()
    assert [name for name in states[0] if not torch.equal(states[0][name], states[1][name])] == []
    assert losses[0] == losses[1]
    assert torch.equal(score_table(one), score_table(other))


def permuted(toy: Toy, *, ids_too: bool) -> Toy:
    features = {}
    for name, (ids, array) in toy.features.items():
        order = np.random.default_rng(5).permutation(len(ids))
        features[name] = ([ids[row] for row in order] if ids_too else ids), array[order]
    return replace(toy, features=features)


def test_the_order_of_feature_rows_is_nothing(tmp_path: Path, model: str) -> None:
    toys = {"plain": make_toy(), "with_ids": permuted(make_toy(), ids_too=True)}
    toys["without_ids"] = permuted(make_toy(), ids_too=False)
    losses, scores = {}, {}
    for name, toy in toys.items():
        experiment = make_experiment(tmp_path / name, model, toy)
        losses[name], scores[name] = train_steps(experiment, 3), score_table(experiment)
    assert losses["plain"] == losses["with_ids"]
    assert torch.equal(scores["plain"], scores["with_ids"])
    assert not torch.equal(scores["plain"], scores["without_ids"])


def checkerboard(n: int = 29) -> Toy:
    """Users like the items of their parity; each user's own item is held back. Features tell nothing."""
    users, items = ([f"{letter}{i:02}" for i in range(n)] for letter in "ui")
    train = [(users[u], items[i]) for u in range(n) for i in range(u % 2, n, 2) if i != u]
    diagonal = list(zip(users, items, strict=True))
    return Toy(train, diagonal, diagonal, random_features(items, ("image", "text"), seed=7))


def test_finds_the_diagonal_of_a_checkerboard(tmp_path: Path, model: str) -> None:
    """As implicit tests its models: the one item of the user's kind that was held back comes first."""
    options = {"topk": [1], "valid_metric": "Hit@1", "epochs": 20, "train_batch_size": 101, "eval_step": 0}
    experiment = make_experiment(tmp_path, model, checkerboard(), **options | CHECKERBOARD.get(model, {}))
    experiment.trainer.eval_collector.data_collect(experiment.train_data)
    before = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)["hit@1"]
    result = experiment.train()
    assert before < 0.5
    assert result["test"]["hit@1"] >= 0.9


def disturb(experiment: Experiment) -> None:
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.add_(torch.linspace(0.5, 1.5, parameter.numel()).reshape(parameter.shape))


def test_train_forgets_the_cached_embeddings(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    before = score_table(experiment)
    disturb(experiment)
    experiment.model.train()
    assert not torch.equal(score_table(experiment), before)


def test_loading_a_state_forgets_the_cached_embeddings(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    state = {key: value.clone() for key, value in experiment.model.state_dict().items()}
    before = score_table(experiment)
    disturb(experiment)
    experiment.model.train()
    assert not torch.equal(score_table(experiment), before)
    experiment.model.load_state_dict(state)
    assert not experiment.model.training
    assert torch.equal(score_table(experiment), before)


def test_an_evaluation_computes_the_embeddings_once(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    calls, forward = [], experiment.model.forward

    def counted() -> Any:
        calls.append(1)
        return forward()

    experiment.model.forward = counted
    experiment.trainer.eval_collector.data_collect(experiment.train_data)
    assert len(experiment.test_data) > 1
    experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    assert len(calls) == 1
    assert torch.equal(score_table(experiment), score_table(experiment))
    assert len(calls) == 1


def test_features_rank_a_cold_item_if_the_model_says_so(tmp_path: Path, model: str) -> None:
    """Other features of the one item without a training row move its scores, or the model cannot tell it."""
    toys = {"plain": make_toy(), "changed": make_toy()}
    cold = f"i{N_ITEMS - 2:02}"
    for ids, array in toys["changed"].features.values():
        array[ids.index(cold)] *= -1
    scores = {}
    for name, toy in toys.items():
        experiment = make_experiment(tmp_path / name, model, toy)
        train_steps(experiment, 3)
        item = experiment.dataset.item_tokens.index(cold)
        assert item not in experiment.model.train_edges[1]
        scores[name] = score_table(experiment)[:, item]
    assert torch.equal(*scores.values()) is not experiment.model.scores_cold_items


@pytest.mark.parametrize("n_modalities", [1, 2, 3])
def test_takes_any_number_of_modalities(tmp_path: Path, model: str, n_modalities: int) -> None:
    toy = make_toy(("image", "text", "audio"))
    chosen = ["audio", "text", "image"][:n_modalities]
    experiment = make_experiment(tmp_path, model, toy, modalities=chosen)
    assert all(np.isfinite(value) for step in train_steps(experiment, 3) for value in step.values())
    scores = score_table(experiment)
    assert scores.isfinite().all()
    shutil.rmtree(tmp_path / "dataset")
    one, rest = chosen[-1], {name: value for name, value in toy.features.items() if name != chosen[-1]}
    ids, array = toy.features[one]
    changed = make_experiment(
        tmp_path, model, replace(toy, features={**rest, one: (ids, array[::-1].copy())}), modalities=chosen
    )
    train_steps(changed, 3)
    assert not torch.equal(score_table(changed), scores)  # the last modality counts


def from_tensors(experiment: Experiment, **changes: Any) -> Any:
    """Build the experiment's model once more, from tensors alone."""
    built, dataset = experiment.model, experiment.train_data._dataset
    values = {
        "params": type(built.params).defaults(**vars(built.params)),
        "n_users": N_USERS,
        "n_items": N_ITEMS,
        "train_edges": dataset.train_edges,
        "features": dataset.item_features(),
        "seed": experiment.config.run.seed,
    }
    return type(built).from_tensors(**values | changes)


def plain(batch: Interaction) -> dict[str, Tensor]:
    """Copy RecBole's batch into the dict that a plain loop has."""
    return {name: ids.clone() for name, ids in batch.interaction.items()}


def test_a_model_from_tensors_trains_and_scores_as_recboles_call(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model, seed=2027)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    twin = from_tensors(experiment)
    assert torch.equal(torch.get_rng_state(), before)
    other = from_tensors(experiment, seed=2029)
    states = [one.state_dict() for one in (experiment.model, twin, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])

    batches = [plain(batch) for batch in experiment.train_data][:3]
    losses: list[list[dict[str, float]]] = []
    for one in (experiment.model, twin):
        optimizer = torch.optim.Adam(one.parameters(), lr=0.01)
        one.train()
        one.on_epoch_start(0)
        losses.append([])
        for batch in batches:
            terms = one.loss_terms(batch if one is twin else Interaction(batch))
            optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
            losses[-1].append({name: term.item() for name, term in terms.items()})
        one.eval()
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]
    scores = [user @ item.T for user, item in (experiment.model.final_embeddings(), twin.final_embeddings())]
    assert torch.equal(*scores)
    assert torch.equal(scores[0], score_table(experiment))
    users = torch.arange(N_USERS)
    assert torch.equal(twin.full_sort_predict({"user_id": users}).reshape(scores[0].shape), scores[0])


def test_tensors_that_make_no_model_are_refused_in_one_line(tmp_path: Path, model: str) -> None:
    experiment = make_experiment(tmp_path, model)
    edges, features = experiment.train_data._dataset.train_edges, experiment.dataset.item_features()
    edges[1, 5] = N_ITEMS
    with pytest.raises(ValueError, match=rf"^train_edges has the item id {N_ITEMS};[^\n]*$"):
        from_tensors(experiment, train_edges=edges)
    features["text"] = features["text"][1:]
    with pytest.raises(ValueError, match=r"^features\['text'\] has the shape \(22, 13\)[^\n]*$"):
        from_tensors(experiment, features=features)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cpu_and_gpu_agree(tmp_path: Path, model: str) -> None:
    options = WITHOUT_NOISE.get(model, {})
    gpu = make_experiment(tmp_path, model, gpu_id="0", **options)
    assert next(gpu.model.parameters()).is_cuda
    cpu = make_experiment(tmp_path, model, **options)
    gpu.model.load_state_dict(cpu.model.state_dict())
    torch.testing.assert_close(score_table(gpu), score_table(cpu), rtol=1e-4, atol=1e-6)
    batch = first_batch(cpu)
    for experiment in (cpu, gpu):
        start_epoch(experiment)
    terms = {device: e.model.calculate_loss(batch.to(device)) for device, e in (("cpu", cpu), ("cuda", gpu))}
    for on_cpu, on_gpu in zip(terms["cpu"], terms["cuda"], strict=True):
        torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-4, atol=1e-6)
    for losses in terms.values():
        torch.stack(losses).sum().backward()
    gradients = {name: p.grad.cpu() for name, p in gpu.model.named_parameters() if p.grad is not None}
    for name, parameter in cpu.model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)
