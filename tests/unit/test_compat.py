"""Each work-around of compat.py fails without it, and works with it.

The patches hold for a whole process, so each work-around has a probe that a process runs twice: with all
the others applied but not this one, then with this one too. The processes are forks of one that has imported
RecBole and applied nothing.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import logging.handlers
import math
import os
import queue
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from recbole_siger import compat
from recbole_siger.errors import UserError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.xdist_group("compat")


def _config(**changes: Any) -> Any:
    from recbole.config import Config

    return Config(model="BPR", dataset="ml-100k", config_dict={"gpu_id": "", **changes})


def _adjacency_holder() -> SimpleNamespace:
    """Return what ``get_norm_adj_mat`` reads: 2 users, 3 items, edges (0, 1), (1, 1) and (1, 2)."""
    from scipy.sparse import coo_matrix

    interactions = coo_matrix((np.ones(3, dtype=np.float32), ([0, 1, 1], [1, 1, 2])), shape=(2, 3))
    return SimpleNamespace(n_users=2, n_items=3, interaction_matrix=interactions, device="cpu")


def _probe_numpy_names() -> Any:
    numpy_bool, numpy_long = np.bool, np.long
    _config()
    assert (np.bool, np.long) == (numpy_bool, numpy_long)
    return [np.dtype(vars(np)[name]).name for name in ("float", "str")]


def _probe_dok_update() -> Any:
    import recbole.model.general_recommender as general_recommender

    models = [getattr(general_recommender, name) for name in ("LightGCN", "NGCF", "NCL", "GCMC")]
    return [model.get_norm_adj_mat(_adjacency_holder()).to_dense().tolist() for model in models]


def _probe_kmeans_pytorch_module() -> Any:
    import torch
    from recbole.model.general_recommender.ldiffrec import AutoEncoder

    assert importlib.util.find_spec("kmeans_pytorch") is not None
    item_embeddings = torch.tensor([[0.0, 0.0], [9.0, 9.0], [9.0, 8.0], [0.0, 1.0], [1.0, 0.0]])
    np.random.seed(0)  # noqa: NPY002 - the global state is the one that RecBole seeds
    encoder = AutoEncoder(item_embeddings, 2, in_dims=[2], out_dims=[], device="cpu", act_func="tanh")
    return sorted(encoder.category_len)


def _probe_ncl_clusters() -> Any:
    from recbole.model.general_recommender import NCL

    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    compat.logger.addHandler(logging.handlers.QueueHandler(records))
    model = SimpleNamespace(latent_dim=2, k=5, device="cpu")
    points = np.array([[0, 1], [1, 0], [1, 1]], dtype=np.float32)
    for _ in range(2):
        centroids, assigned = NCL.run_kmeans(model, points)
    return [list(centroids.shape), sorted(assigned.tolist()), model.k, records.qsize()]


def _holder(**more: Any) -> Any:
    """Return the config and the dataset that RecBole's Pop and Random read: 2 users, 4 items with padding."""
    import torch

    config = _config()
    config["device"] = torch.device("cpu")
    return config, SimpleNamespace(num=lambda field: {"user_id": 3, "item_id": 5}[field], **more)


def _probe_pop_counts() -> Any:
    import torch
    from recbole.data.interaction import Interaction
    from recbole.model.general_recommender import Pop

    model = Pop(*_holder())
    for items, labels in (([1, 1, 2, 3], [1, 1, 1, 0]), ([1, 3, 3, 4], [1, 1, 0, 0])):
        batch = {"item_id": torch.tensor(items), "label": torch.tensor(labels, dtype=torch.float)}
        loss = model.calculate_loss(Interaction(batch))
    model.calculate_loss(Interaction({"item_id": torch.tensor([2, 2])}))  # no negatives are drawn
    scores = model.full_sort_predict(Interaction({"user_id": torch.tensor([1, 2])})).tolist()
    return [model.item_cnt.squeeze(1).tolist(), loss.item(), scores]


def _probe_random_scores() -> Any:
    import torch
    from recbole.data.interaction import Interaction
    from recbole.model.general_recommender import Random

    users = torch.tensor([1, 2] * 500)
    scores = Random(*_holder()).full_sort_predict(Interaction({"user_id": users})).view(-1, 5)
    return [list(scores.shape), len({tuple(row) for row in scores.tolist()}), scores.mean(dim=0).tolist()]


def _probe_dgcf_samples() -> Any:
    from recbole.model.general_recommender import dgcf

    drawn = [dgcf.sample_cor_samples(n, 7, 11) for n in (23, 5)] + [dgcf.sample_cor_samples(13, 17, 11)]
    return [[len(set(part)) for part in pair] for pair in drawn]


def _probe_silent_tensorboard() -> Any:
    import torch
    from recbole.trainer import Trainer

    before = set(os.listdir())
    trainer = Trainer(_config(checkpoint_dir="saved"), torch.nn.Linear(1, 1))
    trainer.tensorboard.add_scalar("loss", 1.0, 0)
    trainer.tensorboard.close()
    written = sorted(set(os.listdir()) - before - {"saved"})
    for name in written:
        os.rename(name, f"old_{name}")
    return written


def _probe_quiet_deprecations() -> Any:
    import pandas as pd
    import torch
    from recbole.data.dataset import Dataset
    from recbole.model.general_recommender import LightGCN
    from recbole.trainer import Trainer
    from recbole.utils import FeatureType

    torch.set_warn_always(True)  # else torch tells of FloatTensor once a process
    table = pd.DataFrame({"price": [1.0, None, 3.0], "shop": [None, 2.0, 3.0]})
    types = {"price": FeatureType.FLOAT, "shop": FeatureType.TOKEN}
    dataset = SimpleNamespace(
        logger=logging.getLogger(), feat_name_list=["table"], table=table, field2type=types
    )
    trainer = SimpleNamespace(model=torch.nn.Linear(1, 1), config={"single_spec": True}, enable_scaler=False)
    with warnings.catch_warnings(record=True) as raised:
        warnings.warn("`torch.cuda.amp.GradScaler(args...)` is deprecated", FutureWarning, stacklevel=1)
        Dataset._fill_nan(dataset)
        LightGCN.get_norm_adj_mat(_adjacency_holder())
        Trainer._train_epoch(trainer, [], 0, loss_func=len)
    return [len(raised), table["price"].tolist(), table["shop"].tolist()]


def _report(name: str) -> list[Any]:
    """Return the probe's outcomes without and with the work-around ``name``."""
    compat._apply(skip=(name,))
    outcomes = []
    for step in (lambda: None, getattr(compat, name)):
        step()
        try:
            outcomes.append(globals()[f"_probe_{name}"]())
        except Exception as error:
            outcomes.append(f"{type(error).__name__}: {error}")
    return outcomes


def _report_all() -> None:
    """Run each probe in a fork of its own, in a folder of its own; print all outcomes as JSON."""
    import recbole.config
    import recbole.trainer  # noqa: F401 - slow to import, and neither needs a work-around

    outcomes = {}
    for name in (workaround.__name__ for workaround in compat.WORKAROUNDS):
        os.mkdir(name)
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0, name
            outcomes[name] = json.loads(Path(name, "outcomes.json").read_text())
        else:
            os.chdir(name)
            Path("outcomes.json").write_text(json.dumps(_report(name)))
            os._exit(0)
    print(json.dumps(outcomes))


def _run(code: str, folder: Path) -> Any:
    """Run ``code`` in a fresh process within ``folder`` and return the JSON of its last line."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    code = "from tests.unit import test_compat; test_compat._report_all()"
    return _run(code, tmp_path_factory.mktemp("probes"))


def test_every_workaround_says_why_and_until_when_and_has_a_probe() -> None:
    for workaround in compat.WORKAROUNDS:
        assert "Needed because: " in (workaround.__doc__ or "")
        assert "Remove when: " in (workaround.__doc__ or "")
        assert f"_probe_{workaround.__name__}" in globals()


def test_numpy_names(outcomes: Any) -> None:
    without, applied = outcomes["numpy_names"]
    assert without.startswith("AttributeError: `np.float_`")
    assert applied == ["float64", "str"]


def test_dok_update(outcomes: Any) -> None:
    without, applied = outcomes["dok_update"]
    assert without.startswith("AttributeError")
    assert "_update" in without
    # Rows and columns: users 0, 1, items 0, 1, 2, of degrees 1, 2, 0, 2, 1; 1 / sqrt(d_u d_i) on the edges.
    half, root = 0.5, 1 / math.sqrt(2)
    expected: list[list[float]] = [
        [0, 0, 0, root, 0],
        [0, 0, 0, half, root],
        [0, 0, 0, 0, 0],
        [root, half, 0, 0, 0],
        [0, root, 0, 0, 0],
    ]
    for adjacency in applied:
        np.testing.assert_allclose(adjacency, expected, atol=1e-6)


def test_kmeans_pytorch_module(outcomes: Any) -> None:
    without, applied = outcomes["kmeans_pytorch_module"]
    if without == applied:
        pytest.skip("kmeans_pytorch itself is installed")
    assert without == "ModuleNotFoundError: No module named 'kmeans_pytorch'"
    assert applied == [2, 3]


def test_kmeans_stand_in_refuses_another_distance() -> None:
    with pytest.raises(ValueError, match="cosine"):
        compat._kmeans(np.eye(3), 2, distance="cosine")


def test_ncl_clusters(outcomes: Any) -> None:
    pytest.importorskip("faiss")
    without, applied = outcomes["ncl_clusters"]
    assert without.startswith("RuntimeError")
    assert "should be at least as large as number of clusters" in without
    assert applied == [[3, 2], [0, 1, 2], 5, 1]


def test_ncl_without_faiss_tells_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    run_kmeans = compat._clamped(lambda model, x: None)
    with pytest.raises(UserError, match=r'pip install "recbole-siger\[ncl\]"'):
        run_kmeans(SimpleNamespace(k=2), np.zeros((3, 2)))


def test_pop_counts_rows_and_no_negatives(outcomes: Any) -> None:
    without, applied = outcomes["pop_counts"]
    assert without[0] == [0, 2, 2, 2, 1]  # once a batch, negatives too
    # By hand: item 1 has 3 rows with label 1, item 2 has 3, item 3 has 1; item 4 is a negative.
    assert applied == [[0, 3, 3, 1, 0], 0.0, [0.0, 1.0, 1.0, 1 / 3, 0.0] * 2]


def test_random_draws_an_order_for_each_user(outcomes: Any) -> None:
    without, applied = outcomes["random_scores"]
    assert without[:2] == [[1000, 5], 1]
    assert applied[:2] == [[1000, 5], 1000]
    np.testing.assert_allclose(applied[2], 0.5, atol=0.05)  # the standard error is 0.009


def test_dgcf_draws_no_more_than_there_is(outcomes: Any) -> None:
    without, applied = outcomes["dgcf_samples"]
    assert without.startswith("ValueError: Sample larger than population")
    assert applied == [[7, 7], [5, 5], [11, 11]]


def test_silent_tensorboard(outcomes: Any) -> None:
    without, applied = outcomes["silent_tensorboard"]
    assert without == ["log_tensorboard"]
    assert applied == []


def test_silent_writer_knows_no_other_attribute() -> None:
    writer = compat._silent_writer(logging.getLogger())
    writer.add_hparams({}, {})
    with pytest.raises(AttributeError, match="log_dir"):
        _ = writer.log_dir


def test_quiet_deprecations(outcomes: Any) -> None:
    without, applied = outcomes["quiet_deprecations"]
    # The warnings: one of our own, which must stay, two fillna, one FloatTensor, one GradScaler.
    assert without == [5, [1.0, 2.0, 3.0], [0.0, 2.0, 3.0]]
    assert applied == [1, [1.0, 2.0, 3.0], [0.0, 2.0, 3.0]]


LATE = """
import json, sys
import recbole_siger.quick_start
from recbole_siger.registry import get_model_class
get_model_class("SIGER")
heavy = ("sklearn", "sklearn.metrics", "scipy.stats", "recbole.model.general_recommender")
loaded = [name for name in heavy if name in sys.modules]
from recbole.evaluator import metrics
values = [float(metrics.sk_auc([0, 1, 3], [1, 2, 2])), float(metrics.mean_absolute_error([1, 2], [2, 5])),
    float(metrics.mean_squared_error([1, 2], [2, 5]))]
from sklearn.metrics import roc_auc_score
from recbole.model.general_recommender import NCL
print(json.dumps([loaded, values, roc_auc_score([0, 1], [0.1, 0.9]), hasattr(NCL.run_kmeans, "__wrapped__")]))
"""


def test_a_run_imports_scikit_learn_and_recboles_models_when_it_needs_them(tmp_path: Path) -> None:
    loaded, values, real, patched = _run(LATE, tmp_path)
    assert loaded == []
    assert values == [1.5 + 4, 2, 5]
    assert real == 1
    assert patched


SIDE_EFFECTS = """
import json, sys, warnings
import recbole_siger, recbole_siger.compat as compat
imported = [name for name in ("recbole", "ray", "torch") if name in sys.modules]
import torch
load = torch.load
snapshots = []
for _ in range(2):
    compat.apply()
    import numpy, scipy.sparse
    from recbole.config import Config
    from recbole.model.general_recommender import NCL
    from recbole.trainer import trainer
    snapshots.append([numpy.float, numpy.str, Config.compatibility_settings, scipy.sparse.dok_matrix._update,
        sys.modules["kmeans_pytorch"], NCL.run_kmeans, trainer.get_tensorboard, len(warnings.filters)])
late = [name for name in ("ray", "recbole.quick_start") if name in sys.modules]
print(json.dumps([imported, late, snapshots[0] == snapshots[1], load is torch.load]))
"""


def test_import_is_free_of_side_effects_and_apply_is_idempotent(tmp_path: Path) -> None:
    imported, late, idempotent, load_untouched = _run(SIDE_EFFECTS, tmp_path)
    assert imported == []
    assert late == []
    assert idempotent
    assert load_untouched
