r"""MIGGT (MIG-GT): as many hops as suit each modality, and attention to items drawn from the whole catalogue.

Reference:
    Jun Hu, Bryan Hooi, Bingsheng He, Yinwei Wei.
    "Modality-Independent Graph Neural Networks with Global Transformers for Multimodal Recommendation."
    AAAI 2025. arXiv:2412.13994.

Reference code:
    https://github.com/CrawlScript/MIG-GT

Shapes:
    U users and I items (both with RecBole's padding row 0), N = U + I, B batch, S ``n_samples``, d
    ``embedding_size``, h ``hidden_size``, F_m width of the features of modality m.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_siger.errors import UserError
from recbole_siger.graph.normalize import normalize_adjacency
from recbole_siger.graph.user_item import user_item_adjacency
from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.diffusion import drop_entries, propagate_restart
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, dropout, project, unit_rows
from recbole_siger.model.memory import FLOAT, MemoryTerms
from recbole_siger.model.perceptron import Perceptron
from recbole_siger.model.propagation import SparseMatrix
from recbole_siger.model.ranking import ranking_loss
from recbole_siger.model.rows import take_rows, take_triple
from recbole_siger.model.sampled_attention import SampledAttention
from recbole_siger.options.params import ModelParams, bounded

__all__ = ["MIGGT", "MIGGTParams"]


@dataclass(frozen=True, kw_only=True)
class MIGGTParams(ModelParams):
    """Types and ranges; defaults and meanings are in ``properties/model/MIGGT.yaml``."""

    embedding_size: int = bounded("[1, inf)")
    hidden_size: int = bounded("[1, inf)")  # h
    n_ui_layers: int = bounded("[0, inf)")  # k_e
    n_text_layers: int = bounded("[0, inf)")  # k_t
    n_image_layers: int = bounded("[0, inf)")  # k_v
    modality_layers: tuple[int, ...] | None = bounded("[0, inf)")
    restart: float = bounded("[0, 1]")
    n_samples: int = bounded("[0, inf)")  # S
    attention_size: int = bounded("[1, inf)")
    attention_weight: float = bounded("[0, 1]")
    resample_evaluation: bool
    feature_dropout: float = bounded("[0, 1)")
    hidden_dropout: float = bounded("[0, 1)")
    user_dropout: float = bounded("[0, 1)")
    item_dropout: float = bounded("[0, 1)")
    edge_dropout: float = bounded("[0, 1)")
    output_dropout: float = bounded("[0, 1)")
    reg_weight: float = bounded("[0, inf)")  # λ
    lr_decay: float = bounded("(0, 1]")
    lr_floor: float = bounded("[0, 1]")


class MIGGT(MultimodalRecommender):
    r"""IDs of users and content of items propagate by themselves; then each node attends to drawn items.

    .. math::
        P_k(X) &: \; Y \leftarrow .9 \hat A Y + .1 X, \; k \text{ times from } Y = X, \qquad
            \hat A = D^{-1/2} (G + I) D^{-1/2} \\
        H &= P_{k_e}([E_u; 0]) + \sum_m P_{k_m}([0; T_m]), \qquad T_m = \operatorname{MLP}_m(X_m) \\
        Z_n &= .9 t + .1 \operatorname{softmax}\bigl((W_q t + b)(W_k t)^\top / \sqrt{a}\bigr) t,
            \qquad t = [H_n; H_{i_1}; \dots; H_{i_S}] \\
        L &= \sum_b -\log \sigma(y^+_b - y^-_b) - \sum_b \log \operatorname{softmax}(Z_{i^+_b} u_b)_0
            + \frac{\lambda}{2} \lVert E \rVert^2

    ==================================  ===========================  ======================
    Symbol                              Here                         Shape
    ==================================  ===========================  ======================
    :math:`\hat A`                      ``norm_adj``                 sparse ``(N, N)``
    :math:`H`                           ``encode_nodes()``           ``(N, d)``
    :math:`i_1, \dots, i_S`             ``draw()``                   ``(N, S)``
    :math:`E`, the first rows of all Z  ``attention``                ``(U, d)``, ``(I, d)``
    second term of L                    ``unsmooth_loss()``          ``()``
    ==================================  ===========================  ======================

    Items have no ID table. Images are first mapped at random to the width of the texts, and their rows get
    length 1. The losses are sums. Training draws the items of each node, and what dropout leaves out, anew in
    each step.

    Departures from the reference code:
        An evaluation uses the items that were drawn once, when the model was built, and that are stored with
        the parameters, as the map of images is; the reference draws anew, with a different result
        (``resample_evaluation``). Padding has no part in the batch normalisation, the draws and the penalty.
        Two kinds of bias that change nothing are left out: that of a linear map before a batch normalisation,
        and that of the keys.
        Negatives are drawn as for the other models of this package, not from all items.
    """

    params_class = MIGGTParams
    params: MIGGTParams
    scores_cold_items = True
    shares_batches = True

    mixing: Tensor  # (F_text, F_image), empty without images or texts
    user_draws: Tensor  # (U, S) x int32
    item_draws: Tensor  # (I, S) x int32

    def build(self) -> None:
        """Make the tables, the layers, the graph and the draws of evaluations."""
        p, width = self.params, self.params.embedding_size
        widths = self.widths = {m: x.shape[1] for m, x in self.raw_features.items()}
        mixing = torch.empty(0)
        if {
            "image",
            "text",
        } <= widths.keys():  # drawn first, so that it does not depend on the number of items
            mixing = torch.randn(widths["text"], widths["image"])
            widths["image"] = widths["text"]
        self.register_buffer("mixing", mixing, persistent=mixing.numel() > 0)
        self._image: Tensor | None = None
        self.features = self.feature_tables(trained=False)
        self.hops = self.hops_of_modalities()
        mlps = {m: Perceptron(n_features, p.hidden_size, width) for m, n_features in widths.items()}
        self.perceptrons = nn.ModuleDict(mlps)
        self.attention = SampledAttention(width, p.attention_size, p.attention_weight)
        self.user_embedding = nn.Embedding(self.n_users, width)
        nn.init.normal_(self.user_embedding.weight, std=width**-0.5)

        adjacency = user_item_adjacency(self.train_edges, self.n_users, self.n_items, self_loops=True)
        self.norm_adj = SparseMatrix(normalize_adjacency(adjacency), symmetric=True)
        for name, n in (("user_draws", self.n_users), ("item_draws", self.n_items)):
            self.register_buffer(name, torch.randint(1, self.n_items, (n, p.n_samples), dtype=torch.int32))

    def hops_of_modalities(self) -> dict[str, int]:
        """Return the hops of each modality.

        Raises:
            UserError: If ``modality_layers`` has not one number a modality.
        """
        p, names = self.params, self.modalities
        if p.modality_layers is None:
            known = {"text": p.n_text_layers, "image": p.n_image_layers}
            return {m: known.get(m, 2) for m in names}
        if len(p.modality_layers) != len(names):
            given = list(p.modality_layers)
            raise UserError(f"modality_layers={given}: give one number each for {', '.join(names)}")
        return dict(zip(names, p.modality_layers, strict=True))

    def learning_rate_factor(self, epoch: int) -> float:
        """Multiply the learning rate by ``lr_decay`` in each epoch, down to ``lr_floor``."""
        return max(self.params.lr_decay**epoch, self.params.lr_floor)

    def memory_terms(self, batch_size: int) -> MemoryTerms:
        """Count nodes, features with dropout, hidden layers, thinned graphs, attention and rows of Z."""
        p, n_modalities, width = self.params, len(self.modalities), FLOAT * self.params.embedding_size
        n_nodes, hidden = self.n_users + self.n_items, self.n_items * FLOAT * p.hidden_size
        shown = self.n_items * FLOAT * sum(self.widths.values())
        attended = n_nodes * p.n_samples * FLOAT * (2 * p.attention_size + 5)
        rows = 4 * batch_size * (p.n_samples + 1) * width
        edges = 2 * FLOAT * len(self.norm_adj.val) * (n_modalities + 2)
        step = 7 * n_nodes * width + 3.25 * n_modalities * hidden + 1.5 * shown + attended + rows + edges
        return MemoryTerms(round(step), 6 * n_nodes * width + 2 * hidden)

    # ---- representations

    def drop(self, x: Tensor, rate: float) -> Tensor:
        """Drop numbers in training."""
        return dropout(x, rate, generator=self.generator) if self.training and rate else x

    def content(self, modality: str) -> Tensor:
        """Return what enters the perceptron, ``(I, F_m)``; images are mapped at the first call."""
        table: Tensor = getattr(self.features, modality)
        if modality != "image":
            return table
        if self._image is None or self._image.device != table.device:
            self._image = unit_rows(project(table, self.mixing) if self.mixing.numel() else table)
        return self._image

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Load parameters, draws and the map of images, and drop the mapped images."""
        self._image = None
        return super().load_state_dict(*args, **kwargs)

    def encode_nodes(self) -> Tensor:
        """Propagate the IDs of users and each modality's content of items, and add them: ``(N, d)``."""
        p, tables = self.params, {}
        for m in self.modalities:
            shown = self.drop(self.content(m)[1:], p.feature_dropout)
            mapped = self.perceptrons[m](shown, lambda x: self.drop(x, p.hidden_dropout))
            tables[m] = functional.pad(self.drop(mapped, p.item_dropout), (0, 0, self.n_users + 1, 0))
        users = self.drop(self.user_embedding.weight, p.user_dropout)
        total = self.propagate(functional.pad(users, (0, 0, 0, self.n_items)), p.n_ui_layers)
        for m, table in tables.items():
            total = total + self.propagate(table, self.hops[m])
        return self.drop(total, p.output_dropout)

    def propagate(self, table: Tensor, n_layers: int) -> Tensor:
        """Propagate over a graph that has lost entries of its own: ``(N, d)`` to ``(N, d)``."""
        keep = 1 - self.params.edge_dropout if self.training else 1.0
        graph = drop_entries(self.norm_adj, keep, generator=self.generator)
        return propagate_restart(graph, table, n_layers, restart=self.params.restart)

    def draw(self) -> Tensor:
        """Draw S items for each node, uniformly: ``(N, S)``; in evaluation, return the stored ones."""
        if self.training or self.params.resample_evaluation:
            shape = (self.n_users + self.n_items, self.params.n_samples)
            return torch.randint(1, self.n_items, shape, generator=self.generator, device=self.device)
        return torch.cat((self.user_draws, self.item_draws)).long()

    def encode(self) -> tuple[Tensor, Tensor, UserItem]:
        """Return nodes ``(N, d)``, the drawn items ``(N, S)``, and users and items after the attention."""
        nodes, drawn = self.encode_nodes(), self.draw()
        final = self.attention(nodes, nodes[self.n_users :], drawn)
        return nodes, drawn, UserItem(*final.split((self.n_users, self.n_items)))

    def forward(self) -> UserItem:
        """Encode; in evaluation mode nothing is random."""
        return self.encode()[2]

    # ---- training

    def loss_terms(self, interaction: Batch) -> dict[str, Tensor]:
        """Return the terms of the loss, weighted; all are sums."""
        ids = (interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        user, pos, neg = map(self.share.of, ids)
        nodes, drawn, final = self.encode()
        u, i, j = take_triple(final, user, pos, neg)
        squares = final.user[1:].square().sum() + final.item[1:].square().sum()
        unsmooth = self.unsmooth_loss(u, pos, nodes[self.n_users :], drawn[self.n_users :])
        n_shares = self.share.size  # processes average their terms
        return {
            "bpr": n_shares * len(user) * ranking_loss(u, i, j),
            "unsmooth": n_shares * unsmooth,
            "regularization": self.params.reg_weight * squares / 2,
        }

    def unsmooth_loss(self, user: Tensor, pos: Tensor, items: Tensor, drawn: Tensor) -> Tensor:
        """Prefer positive items to what they attend to, by the users' scores of the rows of Z: ``()``."""
        logits = self.attention.scores(user, take_rows(items, pos), items, drawn[pos])
        return functional.cross_entropy(logits, torch.zeros_like(pos), reduction="sum")
