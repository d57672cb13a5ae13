"""What models share that put profiles, texts of a language model, beside a LightGCN or SGL backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recbole_siger.model.abstract_recommender import MultimodalRecommender
from recbole_siger.model.backbone import Backbone, BackboneParams, Triples
from recbole_siger.model.inputs import Batch
from recbole_siger.model.layers import UserItem, embedding_tables
from recbole_siger.model.profiles import Profiles, item_profile, read_profiles, user_profile_names

__all__ = ["ProfiledParams", "ProfiledRecommender"]


@dataclass(frozen=True, kw_only=True)
class ProfiledParams(BackboneParams):
    """Types and ranges of what every model with a backbone and profiles has."""

    item_profile: str | None
    user_profile: str | None


class ProfiledRecommender(MultimodalRecommender):
    """A backbone over ID embeddings, and the profiles of users and items; a model adds how it uses them."""

    params: ProfiledParams
    shares_batches = True

    @classmethod
    def modality_names(cls, params: ProfiledParams, listed: Sequence[str]) -> tuple[str, ...]:
        """Return the modality of the item profiles."""
        return (item_profile(params.item_profile, listed),)

    @classmethod
    def user_feature_names(cls, params: ProfiledParams, listed: Sequence[str]) -> tuple[str, ...]:
        """Return the user profile, if the dataset or ``user_profile`` names one and profiles are read."""
        return user_profile_names(params.user_profile, listed) if cls.needs_features(params) else ()

    def build_backbone(self) -> None:
        """Make the ID embeddings and the backbone."""
        width = self.params.embedding_size
        self.user_embedding, self.item_embedding = embedding_tables(
            (self.n_users, width), (self.n_items, width)
        )
        self.backbone = Backbone(self.build_norm_adj(self.train_edges), self.params)

    def profiles(self) -> Profiles:
        """Return the profiles of users and items, with those that the model's features give."""
        (text,), given, name = self.modalities, self.raw_user_features, type(self).__name__
        return read_profiles(name, text, self.raw_features, given, self.train_edges, self.n_users)

    def start(self) -> UserItem:
        """Return the embeddings of layer 0, by default those of the IDs: ``(U, d)`` and ``(I, d)``."""
        return UserItem(self.user_embedding.weight, self.item_embedding.weight)

    def forward(self) -> UserItem:
        """Propagate over the whole graph."""
        return self.backbone(self.start())

    def triples(self, interaction: Batch) -> Triples:
        """Return users, positive items and negative items of a batch."""
        return Triples(*(interaction[key] for key in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID)))
