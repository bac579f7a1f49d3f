"""Scenes as training takes them: of the batch, and of the memory.

Shapes: ``I`` scenes, ``n`` boxes of one, ``Q`` boxes of all, ``D`` embedding size.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scene:
    """
    An image and the people in it.

    Attributes:
        image_id: of the data set.
        embedding: (D,) of the scene.
        queries: (n, D) of its boxes.
        people: (n,) int64 person ids on the host; every unknown person has one of their own.
        rows: (n,) int64 rows of the re-id loss's table, on the host; -1: unknown.
    """

    image_id: int
    embedding: Tensor
    queries: Tensor
    people: Tensor
    rows: Tensor

    @property
    def known(self) -> list[int]:
        """Ids of the known people, each once, ascending."""
        return sorted(set(self.people[self.rows >= 0].tolist()))

    def kept(self) -> "Scene":
        """The same on the host, without a graph."""
        embedding, queries = (x.detach().float().cpu() for x in (self.embedding, self.queries))
        return replace(self, embedding=embedding, queries=queries)


@dataclass(frozen=True)
class Pairs:
    """
    Which queries and scenes belong together.

    Attributes:
        positive: (Q, I) bool: the scene shows the query's person.
        negative: (Q, I) bool: it does not, and may count as a negative.
        related: (I, I) bool: the scenes share somebody; each is related to itself.
        own: (Q,) each query's own scene.
    """

    positive: Tensor
    negative: Tensor
    related: Tensor
    own: Tensor

    @classmethod
    def of(cls, scenes: list[Scene], filter_negatives: bool = True) -> "Pairs":
        """
        Of all scenes with all their boxes.

        Args:
            scenes: I of them.
            filter_negatives: an unknown person may well be in another scene of the people around
                them, unnoticed: such a scene is no negative.
        """
        own = torch.repeat_interleave(
            torch.arange(len(scenes)), torch.tensor([len(s.people) for s in scenes])
        )
        _, person = torch.cat([s.people for s in scenes]).unique(return_inverse=True)
        known = torch.cat([s.rows for s in scenes]) >= 0
        shown = torch.zeros(len(scenes), int(person.max()) + 1 if len(person) else 0)
        shown[own, person] = 1
        related = (shown @ shown.T > 0) | torch.eye(len(scenes), dtype=torch.bool)
        positive = shown[:, person].T > 0
        negative = ~positive
        if filter_negatives:
            negative &= known[:, None] | ~related[own]
        return cls(positive, negative, related, own)

    def of_queries(self, chosen: Tensor) -> "Pairs":
        """Those of some queries."""
        return replace(
            self,
            positive=self.positive[chosen],
            negative=self.negative[chosen],
            own=self.own[chosen],
        )
