"""The Gallery Filter Network as a part of a model: training and inference.

Where the authors' paper and code part: queries are the batch's own embeddings (their default is
the table), rows of the table that are not filled yet are left out (they are queries of zeros
there), and a loss that is not finite is treated as any other (0 there).

Shapes: ``N`` images of the batch, ``n`` boxes of it, ``D_r`` re-id size.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils import comm
from torch import Tensor, nn

from .. import whole_batch
from ..inputs import whose
from ..precision import full_precision, unit_rows
from .fuser import FUSERS, Fuser, IdentityFuser
from .loss import contrastive_loss
from .memory import SceneMemory
from .scenes import Pairs, Scene

# "combined": scenes as a query sees them; "separate": a scene and a query ("base" in the paper);
# "image": two scenes ("scene-only").
MODES = ("combined", "separate", "image")
# "batch": embeddings of the batch's boxes; "oim": their rows of the look-up table ("prototype").
QUERIES = ("batch", "oim")
# Side of the map that a scene is pooled to.
_SCENE_SIZE = 56


class Embedder(Protocol):
    """A model's re-id branch behind its RoI pooling, an ``nn.Module``."""

    dim: int

    def __call__(self, rois: Tensor) -> Tensor:
        """(n, C, s, s) of any side s -> (n, D_r)."""


class GalleryFilter(nn.Module):
    """Scene embedder, fuser, loss and memory."""

    step: Tensor

    def __init__(
        self,
        reid_embedder: Embedder,
        mode: str = "combined",
        queries: str = "batch",
        filter_negatives: bool = True,
        memory: bool = True,
        loss_weight: float = 1.0,
        activation: str = "se",
    ):
        """
        Args:
            reid_embedder: the scene embedder starts as a copy of it, and shares nothing with it.
            mode: one of ``MODES``.
            queries: one of ``QUERIES``.
            filter_negatives: see :meth:`.scenes.Pairs.of`; no part of mode "image".
            memory: train with scenes of earlier batches, too.
            loss_weight: factor on the loss.
            activation: one of ``FUSERS``, of mode "combined": how a query sees a scene.

        Raises:
            ValueError: an unknown mode, activation or kind of queries.
        """
        super().__init__()
        for name, value, choices in (
            ("mode", mode, MODES),
            ("queries", queries, QUERIES),
            ("activation", activation, tuple(FUSERS)),
        ):
            if value not in choices:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(choices)}.")
        self.embedder = copy.deepcopy(reid_embedder)
        self.fuser: Fuser | IdentityFuser | None = None
        if mode == "combined":
            self.fuser = FUSERS[activation](reid_embedder.dim)
        self.mode = mode
        self.queries = queries
        self.filter_negatives = filter_negatives
        self.memory = SceneMemory() if memory else None
        self.loss_weight = loss_weight
        # Seeds the memory's samples: the same on all processes, and resumed.
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def embed(self, features: Tensor) -> Tensor:
        """
        Scene embeddings (N, D_r) float32.

        Args:
            features: (N, C, H, W), what RoIs are pooled from, padding included.
        """
        return self.embedder(F.adaptive_max_pool2d(features, _SCENE_SIZE))

    def losses(
        self,
        scenes: Tensor,
        queries: Tensor,
        image_ids: list[int],
        people: list[Tensor],
        rows: list[Tensor],
        table: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        ``loss_gfn`` of a batch, whose scenes then go into the memory.

        Processes act as one with the whole batch. Parts of an accumulated batch are batches of
        their own.

        Args:
            scenes: (N, D_r).
            queries: (n, D_r) embeddings of the boxes, image by image.
            image_ids: N of them.
            people, rows: for each image (n_i,), as :class:`.scenes.Scene` has them.
            table: (L, D_r), the re-id loss's, for "oim".
        """
        if not whole_batch.in_last_pass():
            return {}
        batch = _whole_batch(scenes, queries, image_ids, people, rows)
        generator = torch.Generator().manual_seed(int(self.step))
        self.step += 1
        more = [] if self.memory is None else self.memory.sample(batch, generator)
        loss = self.loss([*batch, *more], table)
        if self.memory is not None:
            self.memory.store(batch)
        return {"loss_gfn": loss * self.loss_weight}

    def losses_of(
        self,
        scenes: Tensor,
        queries: Tensor,
        batched_inputs: list[dict],
        given: list[Instances],
        table: Tensor | None,
    ) -> dict[str, Tensor]:
        """
        :meth:`losses` of a model's inputs and their checked ground truth, on the host.

        Raises:
            ValueError: an input without its image's id.
        """
        lacking = next((x for x in batched_inputs if "image_id" not in x), None)
        if lacking is not None:
            raise ValueError(
                "Training a gallery filter needs 'image_id' in every input"
                f"{whose(lacking)}: it remembers the scenes of earlier batches."
            )
        return self.losses(
            scenes,
            queries,
            [x["image_id"] for x in batched_inputs],
            [people.gt_person_ids for people in given],
            [people.gt_identities for people in given],
            table,
        )

    def loss(self, scenes: list[Scene], table: Tensor | None = None) -> Tensor:
        """Of scenes on any devices, as one batch."""
        device = scenes[0].embedding.device
        y = torch.stack([s.embedding.to(device).float() for s in scenes])
        x = torch.cat([s.queries.to(device).float() for s in scenes])
        pairs = Pairs.of(scenes, self.filter_negatives)
        if self.queries == "oim" and self.mode != "image":
            x, pairs = self._from_table(x, pairs, torch.cat([s.rows for s in scenes]), table)
        positive, negative, related, own = (
            t.to(device) for t in (pairs.positive, pairs.negative, pairs.related, pairs.own)
        )
        with full_precision(y):
            if self.mode == "image":
                return contrastive_loss(unit_rows(y) @ unit_rows(y).T, related, ~related)
            if len(x) == 0:
                # A gradient for every parameter, which distributed training waits for.
                parts = [y, x, *self.parameters()]
                return sum(((p * 0.0).sum() for p in parts), y.new_zeros(()))
            if self.fuser is None:
                cosines = unit_rows(y) @ unit_rows(x).T
                return contrastive_loss(cosines, positive.T, negative.T)
            return contrastive_loss(self.fuser(x, y, own), positive, negative)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Inside, losses are a function of the weights and the batches, and leave no trace."""
        before = self.memory, self.step.clone(), self.training
        self.memory = None if self.memory is None else SceneMemory()
        self.step.zero_()
        if self.fuser is not None:
            self.fuser.eval()
        try:
            yield
        finally:
            self.memory = before[0]
            self.step.copy_(before[1])
            if self.fuser is not None:
                self.fuser.train(before[2])

    @staticmethod
    def _from_table(
        x: Tensor, pairs: Pairs, rows: Tensor, table: Tensor | None
    ) -> tuple[Tensor, Pairs]:
        """Known people's rows of the table, as far as filled, in place of their embeddings."""
        if table is None:
            raise ValueError("Queries 'oim' need the look-up table of the re-id loss.")
        known = (rows >= 0).nonzero()[:, 0]
        values = table.detach()[rows[known].to(table.device)].to(x.device, x.dtype)
        filled = values.any(dim=1)
        return values[filled], pairs.of_queries(known[filled.cpu()])

    def scoring(self) -> Tensor | None:
        """
        What scores need beside embeddings; None in mode "separate".

        See :mod:`spnet_d2.evaluation.scene_scores`.
        """
        if self.mode == "separate":
            return None
        # Without any, the scenes are compared as they are.
        fuser = self.fuser or IdentityFuser(self.embedder.dim).to(self.step.device)
        return fuser.scoring().detach()


def build_gallery_filter(cfg: CfgNode, reid_embedder: Embedder) -> GalleryFilter | None:
    """Of ``MODEL.SPNET.GFN``; None where it is off."""
    options = cfg.MODEL.SPNET.GFN
    if not options.ENABLED:
        return None
    return GalleryFilter(
        reid_embedder,
        options.MODE,
        options.QUERIES,
        options.FILTER_NEGATIVES,
        options.MEMORY,
        options.LOSS_WEIGHT,
        options.ACTIVATION,
    )


def _whole_batch(
    scenes: Tensor,
    queries: Tensor,
    image_ids: list[int],
    people: list[Tensor],
    rows: list[Tensor],
) -> list[Scene]:
    """Scenes of all processes, in the order of the processes, the same on each."""
    rank = comm.get_rank() if whole_batch.num_processes() > 1 else 0
    counts = [len(p) for p in people]
    # A scene, by process and place, and what is known of it.
    marks = torch.tensor([[rank, i, image] for i, image in enumerate(image_ids)])
    owners = torch.repeat_interleave(marks[:, :2], torch.tensor(counts), dim=0)
    boxes = torch.cat([owners, torch.cat(people)[:, None], torch.cat(rows)[:, None]], dim=1)
    device = scenes.device
    y, marks, _ = whole_batch.rows_with_gradient(0, scenes.float(), marks.to(device))
    x, boxes, _ = whole_batch.rows_with_gradient(0, queries.float(), boxes.to(device))
    marks, boxes = marks.cpu(), boxes.cpu()
    # Boxes come in the order of their scenes.
    found = (marks[:, None, :2] == boxes[None, :, :2]).all(dim=2).sum(dim=1).tolist()
    parts = zip(y, x.split(found), marks[:, 2].tolist(), boxes.split(found), strict=True)
    return [Scene(image, e, q, b[:, 2], b[:, 3]) for e, q, image, b in parts]
