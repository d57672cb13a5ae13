"""Checks of padding, splits, features and modalities. A check raises an AssertionError."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_siger.testing.experiments import (
    Case,
    graphs_of,
    require,
    score_table,
    start_epoch,
    tensors_of,
    train_steps,
)
from recbole_siger.testing.toy import COLD_ITEM, N_ITEMS, N_USERS, checkerboard, make_toy, permuted
from recbole_siger.training.experiment import Experiment

__all__ = [
    "finds_the_checkerboard",
    "no_graph_touches_padding",
    "order_of_feature_rows_is_nothing",
    "other_splits_do_not_leak",
    "padding_is_never_recommended",
    "scores_cold_items_as_declared",
    "takes_1_modality",
    "takes_2_modalities",
    "takes_3_modalities",
]


def padding_is_never_recommended(case: Case) -> None:
    """Neither padding nor a training item is recommended, even if the model scores padding first."""
    experiment = case.experiment()
    model, trainer = experiment.model, experiment.trainer
    honest, tops = model.full_sort_predict, []

    def tempted(interaction: Interaction) -> Tensor:
        scores = honest(interaction).reshape(-1, N_ITEMS)
        scores[:, 0] = scores.max() + 1
        return scores.flatten()

    def collect(scores: Tensor, interaction: Any, positive_u: Tensor, positive_i: Tensor) -> None:
        tops.append(scores.topk(5).indices)
        type(trainer.eval_collector).eval_batch_collect(
            trainer.eval_collector, scores, interaction, positive_u, positive_i
        )

    model.full_sort_predict, trainer.eval_collector.eval_batch_collect = tempted, collect
    trainer.eval_collector.data_collect(experiment.train_data)
    trainer.evaluate(experiment.test_data, load_best_model=False)
    top, users = torch.cat(tops), experiment.test_data.uid_list
    require(len(top) == len(users) > N_USERS // 2, f"{len(top)} users were ranked, of {len(users)}")
    require((top > 0).all(), "padding is recommended")
    trained = {(int(u), int(i)) for u, i in model.train_edges.T}
    recommended = {(int(u), int(i)) for u, row in zip(users, top, strict=True) for i in row}
    require(not trained & recommended, "items of the training split are recommended")


def no_graph_touches_padding(case: Case) -> None:
    """Each graph has an edge, joins users or items, and has none at a padding row or column."""
    experiment = case.experiment()
    start_epoch(experiment)  # some models draw a graph for each epoch
    for name, graph in graphs_of(experiment.model).items():
        require(graph.any(), f"the graph {name} has no edge")
        for axis, size in enumerate(graph.shape):
            require(
                size in (N_USERS, N_ITEMS, N_USERS + N_ITEMS),
                f"the graph {name} has the shape {graph.shape}; there are {N_USERS} users, {N_ITEMS} items",
            )
            padding = [0, N_USERS] if size == N_USERS + N_ITEMS else [0]
            require(not graph.take(padding, axis=axis).any(), f"the graph {name} has an edge at padding")


def other_splits_do_not_leak(case: Case) -> None:
    """Other validation and test interactions change neither tensors, nor losses, nor scores."""
    experiments, states, losses = [], [], []
    for seed in (1, 2):
        experiment = case.experiment(make_toy(complete=True, eval_seed=seed), part=f"split{seed}")
        experiments.append(experiment)
        states.append(
            {name: x.detach().to_dense().clone() for name, x in tensors_of(experiment.model).items()}
        )
        losses.append(train_steps(experiment, 5))
    one, other = experiments
    require(one.dataset.item_tokens == other.dataset.item_tokens, "the two datasets differ in items")
    require(one.dataset.user_tokens == other.dataset.user_tokens, "the two datasets differ in users")
    for split in ("valid_data", "test_data"):
        edges = [getattr(e, split)._dataset.train_edges for e in experiments]
        require(not torch.equal(*edges), "the two datasets must differ")
    require(states[0].keys() == states[1].keys(), "the other splits change which tensors the model has")
    changed = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    require(not changed, f"validation and test interactions change {changed}")
    require(losses[0] == losses[1], "validation and test interactions change the losses")
    require(
        torch.equal(score_table(one), score_table(other)),
        "validation and test interactions change the scores",
    )


def order_of_feature_rows_is_nothing(case: Case) -> None:
    """Feature rows permuted with their ids change nothing; permuted without their ids, they change scores.

    They change no score of a model that reads no features.
    """
    toys = {"plain": make_toy(), "with_ids": permuted(make_toy(), ids_too=True)}
    toys["without_ids"] = permuted(make_toy(), ids_too=False)
    losses, scores = {}, {}
    for name, toy in toys.items():
        experiment = case.experiment(toy, part=name)
        losses[name], scores[name] = train_steps(experiment, 3), score_table(experiment)
    require(losses["plain"] == losses["with_ids"], "the order of feature rows changes the losses")
    require(torch.equal(scores["plain"], scores["with_ids"]), "the order of feature rows changes the scores")
    _changes_as_declared(experiment, not torch.equal(scores["plain"], scores["without_ids"]), "other items")


def finds_the_checkerboard(case: Case) -> None:
    """The one item of the user's kind that was held out comes first, as implicit tests its models."""
    options = {"topk": [1], "valid_metric": "Hit@1", "epochs": 20, "train_batch_size": 101, "eval_step": 0}
    experiment = case.experiment(checkerboard(), **{**options, **case.checkerboard})
    experiment.trainer.eval_collector.data_collect(experiment.train_data)
    before = experiment.trainer.evaluate(experiment.test_data, load_best_model=False)["hit@1"]
    after = experiment.train()["test"]["hit@1"]
    require(before < 0.5, f"the untrained model finds the checkerboard already: hit@1 {before}")
    require(after >= 0.9, f"after {options['epochs']} epochs the held-out items are not first: hit@1 {after}")


def scores_cold_items_as_declared(case: Case) -> None:
    """New features of the item without a training row change its scores, exactly if the model says so."""
    toys = {"plain": make_toy(), "changed": make_toy()}
    for ids, array in toys["changed"].features.values():
        array[ids.index(COLD_ITEM)] *= -1
    scores = {}
    for name, toy in toys.items():
        experiment = case.experiment(toy, part=name)
        train_steps(experiment, 3)
        item = experiment.dataset.item_tokens.index(COLD_ITEM)
        require(item not in experiment.model.train_edges[1], "the cold item has a training row")
        scores[name] = score_table(experiment)[:, item]
    changed, declared = not torch.equal(*scores.values()), experiment.model.scores_cold_items
    require(
        changed is declared,
        f"scores_cold_items is {declared}, but features of a cold item "
        f"{'change' if changed else 'do not change'} its scores",
    )


def _takes_modalities(case: Case, n_modalities: int) -> None:
    toy = make_toy(("image", "text", "audio"))
    chosen = ["audio", "text", "image"][:n_modalities]
    experiment = case.experiment(toy, part="all", modalities=chosen)
    losses = [value for step in train_steps(experiment, 3) for value in step.values()]
    require(np.isfinite(losses).all(), f"with the modalities {chosen} a loss is not finite")
    scores = score_table(experiment)
    require(scores.isfinite().all(), f"with the modalities {chosen} a score is not finite")
    last = chosen[-1]
    ids, array = toy.features[last]
    features = {**toy.features, last: (ids, array[::-1].copy())}
    changed = case.experiment(replace(toy, features=features), part="changed", modalities=chosen)
    train_steps(changed, 3)
    differ, model = not torch.equal(score_table(changed), scores), experiment.model
    if model.uses_features and last not in model.modality_names(model.params, chosen):
        require(not differ, f"features of {last!r} change a score, but modality_names does not name {last!r}")
    else:
        _changes_as_declared(changed, differ, repr(last))


def _changes_as_declared(experiment: Experiment, changed: bool, whose: str) -> None:
    declared, found = experiment.model.uses_features, "a score" if changed else "no score"
    require(changed is declared, f"features of {whose} change {found}, but uses_features is {declared}")


def takes_1_modality(case: Case) -> None:
    """The model trains with one modality, whose features change the scores."""
    _takes_modalities(case, 1)


def takes_2_modalities(case: Case) -> None:
    """The model trains with two modalities; those of the last change the scores, if it is read."""
    _takes_modalities(case, 2)


def takes_3_modalities(case: Case) -> None:
    """The model trains with three modalities; those of the last change the scores, if it is read."""
    _takes_modalities(case, 3)
