"""Checks of losses, scores, seeds, saved models and caches. A check raises an AssertionError."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

from recbole_siger.config import Config, params_from_config
from recbole_siger.options.params import options
from recbole_siger.options.yaml_values import read_yaml
from recbole_siger.registry import option_files
from recbole_siger.testing.experiments import (
    Case,
    begin_epoch,
    first_batch,
    require,
    score_table,
    small_values,
    start_epoch,
    train_steps,
)
from recbole_siger.testing.toy import N_ITEMS, N_USERS
from recbole_siger.training.experiment import Experiment, build_experiment

__all__ = [
    "caches_embeddings_in_evaluation",
    "cpu_and_gpu_agree",
    "defaults_are_one",
    "from_tensors_is_the_same_model",
    "full_sort_agrees_with_predict",
    "loading_a_state_drops_the_cache",
    "loss_terms_are_finite",
    "parameters_learn_or_are_frozen",
    "saved_model_scores_as_before",
    "seed_decides_scores",
    "train_drops_the_cache",
    "wrong_tensors_are_refused",
]


def _close(found: Tensor, expected: Tensor, what: str, rtol: float | None = None) -> None:
    """Compare two tensors; without ``rtol``, with the tolerances of ``torch.testing``."""
    atol = None if rtol is None else 1e-6
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol, msg=lambda text: f"{what}: {text}")


def defaults_are_one(case: Case) -> None:
    """A run and ``from_tensors`` use the same defaults, and each key of the YAML exists."""
    case.experiment()  # writes the dataset
    places = {"data_path": small_values(case.folder, case.model)["data_path"], "gpu_id": ""}
    config = Config(case.model, "toy", config_dict=places)
    params_class = config.model_class.params_class
    run, alone = params_from_config(params_class, config), params_class.defaults()
    require(run == alone, f"a run has the defaults {run}, {params_class.__name__}.defaults() has {alone}")
    known = Config("BPR", "toy", config_dict=places).known_keys() | {
        one.name for one in options(params_class)
    }
    for label, path in option_files(config.model_class):
        unknown = sorted(set(read_yaml(path)) - known)
        require(not unknown, f"{label}: {unknown} are no fields of {params_class.__name__}")


def loss_terms_are_finite(case: Case) -> None:
    """``calculate_loss`` returns a tuple of finite float32 scalars with different names."""
    experiment = case.experiment()
    start_epoch(experiment)
    terms = experiment.model.calculate_loss(first_batch(experiment))
    names = experiment.model.loss_names
    require(isinstance(terms, tuple), f"calculate_loss returned a {type(terms).__name__}, not a tuple")
    require(len(names) == len(terms) == len(set(names)), f"{len(terms)} loss terms have the names {names}")
    for name, term in zip(names, terms, strict=True):
        require(term.shape == (), f"the loss term {name!r} has the shape {tuple(term.shape)}, not ()")
        require(term.isfinite(), f"the loss term {name!r} is {term.item()}")
        require(term.dtype == torch.float32, f"the loss term {name!r} is {term.dtype}, not float32")


def full_sort_agrees_with_predict(case: Case) -> None:
    """``full_sort_predict`` scores each pair as ``predict`` does, and users get different scores."""
    experiment = case.experiment()
    train_steps(experiment, 2)
    model, users = experiment.model.eval(), torch.tensor([29, 1, 7, 7, 30])
    scores = model.full_sort_predict(Interaction({model.USER_ID: users}))
    n = len(users) * N_ITEMS
    require(scores.shape == (n,), f"full_sort_predict returned {tuple(scores.shape)}, expected ({n},)")
    for row, user in enumerate(users):
        pairs = {model.USER_ID: user.repeat(N_ITEMS), model.ITEM_ID: torch.arange(N_ITEMS)}
        expected = model.predict(Interaction(pairs))
        require(
            expected.shape == (N_ITEMS,),
            f"predict returned {tuple(expected.shape)} for {N_ITEMS} pairs, expected ({N_ITEMS},)",
        )
        found = scores[row * N_ITEMS : (row + 1) * N_ITEMS]
        _close(found, expected, "full_sort_predict differs from predict")
    trained = model.train_edges[1].unique()  # a model without features may score any other item 0
    spread = scores.reshape(len(users), N_ITEMS)[:, trained].std(dim=0)
    require(spread.min() > 0, "all users get the same scores")


def parameters_learn_or_are_frozen(case: Case) -> None:
    """Each parameter gets a finite gradient, except those in ``frozen_parameters``."""
    experiment = case.experiment()
    model = experiment.model
    begin_epoch(model, None)  # auxiliary losses train parameters too
    torch.stack(model.calculate_loss(first_batch(experiment))).sum().backward()
    parameters = dict(model.named_parameters())
    still, declared = (
        {name for name, p in parameters.items() if p.grad is None or not p.grad.any()},
        set(model.frozen_parameters),
    )
    require(not still - declared, f"no gradient reaches {sorted(still - declared)}; use or declare them")
    require(not declared - still, f"frozen_parameters has {sorted(declared - still)}, which get a gradient")
    for name, p in parameters.items():
        require(p.grad is None or p.grad.isfinite().all(), f"the gradient of {name} is not finite")


def seed_decides_scores(case: Case) -> None:
    """Two trainings with one seed score alike; another seed scores differently."""

    def trained(seed: int) -> Tensor:
        experiment = case.experiment(seed=seed)
        experiment.train()
        return score_table(experiment)

    first = trained(2027)
    require(
        torch.equal(first, trained(2027)),
        "two trainings with one seed give different scores; draw noise from self.generator",
    )
    require(not torch.equal(first, trained(2029)), "another seed gives the same scores")


def saved_model_scores_as_before(case: Case) -> None:
    """A saved and loaded model gives the same scores."""
    experiment = case.experiment()
    experiment.run.write_config(experiment.config.effective())
    experiment.train()
    expected = score_table(experiment)
    fresh = build_experiment(Config(case.model, config_dict=experiment.run.read_config()), experiment.run)
    require(not torch.equal(score_table(fresh), expected), "training does not change the scores")
    fresh.trainer.load_model(experiment.run)
    require(torch.equal(score_table(fresh), expected), "a loaded model scores differently; save all state")


def _disturb(experiment: Experiment) -> None:
    with torch.no_grad():
        for parameter in experiment.model.parameters():
            parameter.add_(torch.linspace(0.5, 1.5, parameter.numel()).reshape(parameter.shape))


def train_drops_the_cache(case: Case) -> None:
    """``train()`` drops the cached embeddings."""
    experiment = case.experiment()
    before = score_table(experiment)
    _disturb(experiment)
    experiment.model.train()
    found = score_table(experiment)
    require(not torch.equal(found, before), "new parameters do not change the scores")
    with torch.no_grad():
        user, item = experiment.model.forward()
    _close(found, (user @ item.T).cpu(), "after new parameters the scores are those of old embeddings")


def loading_a_state_drops_the_cache(case: Case) -> None:
    """``load_state_dict`` drops the cached embeddings."""
    experiment = case.experiment()
    state = {key: value.clone() for key, value in experiment.model.state_dict().items()}
    before = score_table(experiment)
    _disturb(experiment)
    experiment.model.train()
    require(not torch.equal(score_table(experiment), before), "new parameters do not change the scores")
    experiment.model.load_state_dict(state)
    require(not experiment.model.training, "load_state_dict changes the mode of the model")
    require(torch.equal(score_table(experiment), before), "after load_state_dict the old scores remain")


def caches_embeddings_in_evaluation(case: Case) -> None:
    """An evaluation calls ``forward`` once."""
    experiment = case.experiment()
    calls, forward = [], experiment.model.forward

    def counted() -> Any:
        calls.append(1)
        return forward()

    experiment.model.forward = counted
    experiment.trainer.eval_collector.data_collect(experiment.train_data)
    require(len(experiment.test_data) > 1, "the toy dataset has one test batch only")
    experiment.trainer.evaluate(experiment.test_data, load_best_model=False)
    require(len(calls) == 1, f"an evaluation calls forward {len(calls)} times")
    require(torch.equal(score_table(experiment), score_table(experiment)), "two calls give different scores")
    require(len(calls) == 1, "scores after an evaluation call forward again")


# ---- from tensors


def _from_tensors(experiment: Experiment, **changes: Any) -> Any:
    """Build the model of the experiment once more, from tensors alone."""
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


def _same_start(experiment: Experiment) -> Any:
    """Return the model from tensors, whose first parameters are those of the experiment's model."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    twin = _from_tensors(experiment)
    require(torch.equal(torch.get_rng_state(), before), "from_tensors changes torch's global generator")
    other = _from_tensors(experiment, seed=2029)
    mine, same, others = (one.state_dict() for one in (experiment.model, twin, other))
    require(mine.keys() == same.keys(), "a model from tensors has other parameters than a run's model")
    for name in mine:
        require(torch.equal(mine[name], same[name]), f"a model from tensors starts with another {name}")
    require(
        any(not torch.equal(mine[name], others[name]) for name in mine),
        "another seed gives the same first parameters",
    )
    return twin


def from_tensors_is_the_same_model(case: Case) -> None:
    """A model from tensors starts, trains and scores as the model of a run does."""
    experiment = case.experiment(seed=2027)
    twin = _same_start(experiment)
    batches = [
        {name: ids.clone() for name, ids in batch.interaction.items()} for batch in experiment.train_data
    ][:3]
    losses: list[list[dict[str, float]]] = []
    for one in (experiment.model, twin):
        optimizer = torch.optim.Adam(one.parameters(), lr=0.01)
        begin_epoch(one, optimizer)
        losses.append([])
        for batch in batches:
            terms = one.loss_terms(batch if one is twin else Interaction(batch))
            optimizer.zero_grad()
            torch.stack(list(terms.values())).sum().backward()
            optimizer.step()
            losses[-1].append({name: term.item() for name, term in terms.items()})
        one.eval()
    require(losses[0] == losses[1], f"the losses of a run's model and from tensors differ: {losses}")
    require(losses[0][0] != losses[0][1], "two batches have the same loss")
    mine, theirs = (one.final_embeddings() for one in (experiment.model, twin))
    scores = mine[0] @ mine[1].T
    require(torch.equal(scores, theirs[0] @ theirs[1].T), "a model from tensors scores differently")
    require(torch.equal(scores, score_table(experiment)), "scores are no inner products of forward()")
    users = torch.arange(N_USERS)
    found = twin.full_sort_predict({"user_id": users}).reshape(scores.shape)
    require(torch.equal(found, scores), "full_sort_predict of a model from tensors scores differently")


def _refused(call: Callable[[], Any], pattern: str) -> None:
    try:
        call()
    except ValueError as error:
        require(re.search(pattern, str(error)), f"from_tensors says {error!r}, expected {pattern!r}")
    else:
        raise AssertionError(f"from_tensors accepts wrong tensors; expected {pattern!r}")


def wrong_tensors_are_refused(case: Case) -> None:
    """``from_tensors`` refuses tensors of a wrong shape or range in one line."""
    experiment = case.experiment()
    edges, features = experiment.train_data._dataset.train_edges, experiment.dataset.item_features()
    edges[1, 5] = N_ITEMS
    _refused(
        lambda: _from_tensors(experiment, train_edges=edges),
        rf"^train_edges has the item id {N_ITEMS};[^\n]*$",
    )
    features["text"] = features["text"][1:]
    _refused(
        lambda: _from_tensors(experiment, features=features),
        r"^features\['text'\] has the shape \(22, 13\)[^\n]*$",
    )


# ---- devices


def cpu_and_gpu_agree(case: Case) -> None:
    """Scores, losses and gradients on a GPU are those on the CPU; needs a CUDA device."""
    gpu = case.experiment(gpu_id="0", **case.without_noise)
    require(next(gpu.model.parameters()).is_cuda, "the model is not on the GPU")
    cpu = case.experiment(**case.without_noise)
    gpu.model.load_state_dict(cpu.model.state_dict())
    _close(score_table(gpu), score_table(cpu), "the scores on the GPU differ", 1e-4)
    batch = first_batch(cpu)
    for experiment in (cpu, gpu):
        start_epoch(experiment)
    gpu.model.load_state_dict(cpu.model.state_dict())  # auxiliary steps draw numbers of the device
    terms = {device: e.model.calculate_loss(batch.to(device)) for device, e in (("cpu", cpu), ("cuda", gpu))}
    for on_cpu, on_gpu in zip(terms["cpu"], terms["cuda"], strict=True):
        _close(on_gpu.cpu(), on_cpu, "a loss term on the GPU differs", 1e-4)
    for losses in terms.values():
        torch.stack(losses).sum().backward()
    gradients = {name: p.grad.cpu() for name, p in gpu.model.named_parameters() if p.grad is not None}
    for name, parameter in cpu.model.named_parameters():
        if parameter.grad is not None:
            _close(gradients[name], parameter.grad, f"the gradient of {name} differs", 1e-3)
