"""Work-arounds that RecBole 1.2 requires with current numpy, scipy, pandas and torch, in one tested file.

``Config`` and ``get_model_class`` call ``apply()``; importing a module of this package never does. A
work-around is one function of ``WORKAROUNDS``. Its docstring says why it is needed and when it can go,
and ``tests/unit/test_compat.py`` has a test that fails without it. Nothing here changes ``torch.load``: our
trainer overrides the methods that call it.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import logging
import sys
import types
import warnings
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_siger.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["WORKAROUNDS", "apply", "argument_names", "import_metrics"]

logger = logging.getLogger(__name__)

_GENERAL = "recbole.model.general_recommender"
_NCL = f"{_GENERAL}.ncl"

DEPRECATIONS = (
    # These warnings are harmless within the version ranges of pyproject.toml and would appear in every run.
    (r"A value is trying to be set on a copy of a DataFrame or Series", FutureWarning),
    (r"`torch\.cuda\.amp\.(GradScaler|autocast)\(args\.\.\.\)` is deprecated", FutureWarning),
    (r"torch\.sparse\.SparseTensor\(.*\) is deprecated", UserWarning),
)


@functools.cache
def argument_names(root: Path) -> frozenset[str]:
    """Return the keys that RecBole lists in ``recbole/utils/argument_list.py``, without importing RecBole.

    Importing RecBole imports torch and pandas and takes seconds. A misspelt key is reported without the
    import.

    Args:
        root: RecBole's package folder.
    """
    tree = ast.parse((root / "utils" / "argument_list.py").read_text(encoding="utf-8"))
    lists = [node.value for node in tree.body if isinstance(node, ast.Assign)]
    return frozenset(name for names in lists for name in ast.literal_eval(names))


class _SilentWriter:
    """A TensorBoard writer that writes nothing; it accepts every ``add_*`` call, ``flush`` and ``close``."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("add_") or name in ("flush", "close"):
            return lambda *args, **kwargs: None
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


def _silent_writer(logger: logging.Logger) -> _SilentWriter:
    return _SilentWriter()


def _add_numpy_names(config: Any = None) -> None:
    """Give numpy the two removed names that RecBole uses; ``config`` is the ``self`` of RecBole's method."""
    import numpy as np

    for name, scalar in {"float": np.float64, "str": np.str_}.items():
        if name not in vars(np):  # hasattr would print a FutureWarning for np.str
            setattr(np, name, scalar)


def numpy_names() -> None:
    """Restore numpy's ``np.float`` and ``np.str``, and keep RecBole from setting other names.

    Needed because: numpy 2 has neither name; RecBole's metrics, ``Interaction`` and ``Dataset`` use
    ``np.float``, its ``HyperTuning`` uses ``np.str``. ``Config.compatibility_settings``, which should add
    them, fails on ``np.float_`` and would replace ``np.bool`` and ``np.long``, which numpy 2 has again.
    Remove when: RecBole uses ``np.float64`` and ``compatibility_settings`` runs on numpy 2.
    """
    from recbole.config import Config

    _add_numpy_names()
    Config.compatibility_settings = _add_numpy_names


def _dok_update(matrix: Any, entries: dict[tuple[int, int], float]) -> None:
    matrix._dict.update(entries)


def dok_update() -> None:
    """Restore the unchecked ``_update`` of ``scipy.sparse.dok_matrix``.

    Needed because: LightGCN, NGCF, NCL, GCMC, SpectralCF, KGIN and MCCLK fill their adjacency matrix through
    ``_update``, and scipy has removed it; a DOK matrix now stores its entries in the dict ``_dict``.
    Remove when: RecBole builds these matrices in COO form.
    """
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):
        dok_matrix._update = _dok_update


def _kmeans(
    X: torch.Tensor | np.ndarray,  # noqa: N803 - the name that kmeans_pytorch has
    num_clusters: int,
    distance: str = "euclidean",
    device: torch.device | str | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cluster points as ``kmeans_pytorch.kmeans`` does, with scikit-learn.

    The clustering starts once, from random points, and draws from numpy's global state, as kmeans_pytorch
    does. RecBole's ``init_seed`` therefore decides the result. Both results are on the CPU, whatever
    ``device`` says.

    Args:
        X: Points, shape ``(n, d)``.
        num_clusters: Number of clusters, in ``[1, n]``.
        distance: Only ``"euclidean"``.
        device: Ignored.

    Returns:
        The points' cluster indices, int64, shape ``(n,)``; the centres, float32, shape ``(num_clusters, d)``.

    Raises:
        ValueError: If ``distance`` is not ``"euclidean"``.
    """
    import torch
    from sklearn.cluster import KMeans

    if distance != "euclidean":
        raise ValueError(f"distance={distance!r}: this stand-in for kmeans_pytorch supports only 'euclidean'")
    points = torch.as_tensor(X).detach().cpu().float().numpy()
    clusters = KMeans(n_clusters=num_clusters, init="random", n_init=1).fit(points)
    return torch.from_numpy(clusters.labels_).long(), torch.from_numpy(clusters.cluster_centers_).float()


def kmeans_pytorch_module() -> None:
    """Put a stand-in for ``kmeans_pytorch`` into ``sys.modules`` if the package is not installed.

    Needed because: RecBole 1.2.0 imports kmeans_pytorch in LDiffRec, and therefore in the package of all
    general recommenders, without declaring the dependency.
    Remove when: RecBole declares the dependency or imports the package only where it is used.
    """
    name = "kmeans_pytorch"
    if importlib.util.find_spec(name) is not None:
        return
    module = types.ModuleType(
        name, "Stand-in of recbole_siger.compat for kmeans_pytorch, through scikit-learn."
    )
    module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, origin=__name__)
    vars(module)["kmeans"] = _kmeans
    sys.modules[name] = module


def _clamped(run_kmeans: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``NCL.run_kmeans``: the number of clusters is at most the number of points."""

    @functools.wraps(run_kmeans)
    def clamped(model: Any, x: np.ndarray) -> Any:
        try:
            import faiss  # noqa: F401 - imported here, so that the error names the fix
        except ImportError as error:
            raise UserError(
                'NCL clusters its embeddings with faiss: pip install "recbole-siger[ncl]"'
            ) from error
        wanted = model.k
        if wanted > len(x) and not getattr(model, "_clamp_reported", False):
            logger.warning(
                "NCL: num_clusters=%d is more than the %d points to cluster; using one cluster per point",
                wanted,
                len(x),
            )
            model._clamp_reported = True
        model.k = min(wanted, len(x))
        try:
            return run_kmeans(model, x)
        finally:
            model.k = wanted

    return clamped


def _clamp(module: types.ModuleType) -> None:
    if not hasattr(module.NCL.run_kmeans, "__wrapped__"):
        module.NCL.run_kmeans = _clamped(module.NCL.run_kmeans)


_PATCHES: dict[str, Callable[[types.ModuleType], None]] = {}
"""Modules of models that are patched when they are imported, and how."""


class _Finder(importlib.abc.MetaPathFinder):
    """Patch a model when its module is imported: importing it here would import every general recommender."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec, whose loader patches the module after it has run it."""
        if fullname not in _PATCHES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_patch(module: types.ModuleType) -> None:
                run(module)
                _PATCHES[fullname](module)

            spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]  # of this loader alone
        return spec


def _patch(name: str, patch: Callable[[types.ModuleType], None]) -> None:
    """Patch a module of RecBole now if it is imported, else when it is imported."""
    _PATCHES[name] = patch
    if name in sys.modules:
        patch(sys.modules[name])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def ncl_clusters() -> None:
    """Let NCL run on data sets with fewer users or items than ``num_clusters``, and say how to install faiss.

    A GPU requires no work-around: ``faiss.Kmeans(gpu=True)`` uses the GPUs that faiss sees: none in
    faiss-cpu.

    Needed because: faiss rejects more clusters than points, and NCL's default of 1000 is more than the 944
    rows of ml-100k's user table; RecBole does not declare faiss and fails with a bare ModuleNotFoundError.
    Remove when: ``NCL.run_kmeans`` clamps the number of clusters and RecBole declares faiss.
    """
    _patch(_NCL, _clamp)


def _count_rows(model: Any, interaction: Any) -> torch.Tensor:
    """Add the training rows of a batch to ``Pop.item_cnt``; the loss is 0."""
    import torch

    items = interaction[model.ITEM_ID]
    if model.LABEL in interaction.interaction:  # 0 for an item that was drawn as a negative
        items = items[interaction[model.LABEL] > 0]
    model.item_cnt += torch.bincount(items, minlength=model.n_items).unsqueeze(1).to(model.item_cnt)
    model.max_cnt = torch.max(model.item_cnt, dim=0)[0]
    return torch.zeros(1, device=model.item_cnt.device, requires_grad=True)


def _count(module: types.ModuleType) -> None:
    make = module.Pop.__init__
    if hasattr(make, "__wrapped__"):
        return

    @functools.wraps(make)
    def make_with_label(model: Any, config: Any, dataset: Any) -> None:
        make(model, config, dataset)
        model.LABEL = config["LABEL_FIELD"]

    module.Pop.__init__ = make_with_label
    module.Pop.calculate_loss = _count_rows


def pop_counts() -> None:
    """Let Pop count the training rows of each item.

    Needed because: ``item_cnt[item] += 1`` counts an item once a batch, so that the ranking depends on
    ``train_batch_size``; and the items that are drawn as negatives are counted like the training rows.
    Remove when: ``Pop.calculate_loss`` counts each positive row once.
    """
    _patch(f"{_GENERAL}.pop", _count)


def _draw_scores(model: Any, interaction: Any) -> torch.Tensor:
    """Draw the scores of ``Random`` for each user of a batch, shape ``(B * n_items,)``."""
    import torch

    return torch.rand(len(interaction[model.USER_ID]) * model.n_items, dtype=torch.float64)


def _draw(module: types.ModuleType) -> None:
    module.Random.full_sort_predict = _draw_scores


def random_scores() -> None:
    """Let Random draw an order of the items for each user.

    Needed because: ``full_sort_predict`` draws one order and repeats it for all users of a batch, so that the
    result is the luck of a few orders, and depends on ``eval_batch_size``.
    Remove when: ``Random.full_sort_predict`` draws a number for each user and item.
    """
    _patch(f"{_GENERAL}.random", _draw)


def _cap_samples(module: Any) -> None:
    draw = module.sample_cor_samples
    if hasattr(draw, "__wrapped__"):
        return

    @functools.wraps(draw)
    def capped(n_users: int, n_items: int, cor_batch_size: int) -> Any:
        return draw(n_users, n_items, min(cor_batch_size, n_users, n_items))

    module.sample_cor_samples = capped


def dgcf_samples() -> None:
    """Let DGCF train on data with few batches.

    Needed because: DGCF draws ``max(n_users, n_items) / n_batches`` users and as many items without
    repetition, and fails where there are fewer; with more rows nothing changes.
    Remove when: ``DGCF`` draws at most ``n_users`` users and ``n_items`` items.
    """
    _patch(f"{_GENERAL}.dgcf", _cap_samples)


def silent_tensorboard() -> None:
    """Prevent RecBole's trainers from writing files when they are constructed.

    Needed because: every ``Trainer`` opens a TensorBoard writer in ``log_tensorboard/`` below the working
    folder when it is constructed, and no setting turns it off.
    Remove when: RecBole opens the writer only where a setting asks for it.
    """
    import recbole.trainer.trainer as trainer

    trainer.get_tensorboard = _silent_writer


def quiet_deprecations() -> None:
    """Silence the deprecation warnings of RecBole's own lines, and no other warnings.

    Needed because: RecBole fills missing values by chained assignment, which works up to pandas 2, and calls
    ``torch.cuda.amp`` and ``torch.sparse.FloatTensor``, which still work; a user can fix none of them.
    Remove when: RecBole drops those calls. pyproject.toml excludes pandas 3, where the assignment has no
    effect.
    """
    for message, category in DEPRECATIONS:
        warnings.filterwarnings("ignore", message=message, category=category, module=r"recbole\.")


WORKAROUNDS: tuple[Callable[[], None], ...] = (
    quiet_deprecations,
    numpy_names,
    dok_update,
    kmeans_pytorch_module,
    ncl_clusters,
    pop_counts,
    random_scores,
    dgcf_samples,
    silent_tensorboard,
)


def _call_sklearn(name: str, *arguments: Any, **options: Any) -> Any:
    return getattr(importlib.import_module("sklearn.metrics"), name)(*arguments, **options)


def import_metrics() -> None:
    """Import RecBole's metrics without scikit-learn, whose import takes a third of the start of a run.

    RecBole's module imports three functions of ``sklearn.metrics``, for AUC, MAE and RMSE. Functions that
    import scikit-learn when they are called replace them.
    """
    name = "sklearn.metrics"
    if name in sys.modules or "recbole.evaluator.metrics" in sys.modules:
        return
    stand_in = types.ModuleType(name)
    for function in ("auc", "mean_absolute_error", "mean_squared_error"):
        setattr(stand_in, function, functools.partial(_call_sklearn, function))
    sys.modules[name] = stand_in
    try:
        importlib.import_module("recbole.evaluator.metrics")
    finally:
        del sys.modules[name]


def apply() -> None:
    """Apply every work-around; a second call changes nothing. Imports RecBole, but not Ray."""
    _apply()


def _apply(skip: Collection[str] = ()) -> None:
    """Apply all work-arounds except those named in ``skip``; a test shows with it that each is needed."""
    for workaround in WORKAROUNDS:
        if workaround.__name__ not in skip:
            workaround()
