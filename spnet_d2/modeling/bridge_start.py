"""Where bridges start after query-centric pre-training, which has none: a choice of ours.

The paper's bridges start at zero, so ``x_o`` starts at ``-x_a``: what query-centric training taught
the offsets to mean reaches no logit before the bridges have learnt to predict queries. A bridge is
affine, and pre-training made pairs of its input and its aim: matched boxes' ``x_a`` and the ``x_q``
of the people they are matched to. The affine map with the least squared error between them is the
bridge that fine-tuning would look for if nothing else moved.

Shapes: ``m`` matched boxes, ``D`` embedding size.
"""

from collections.abc import Iterable

import torch
from detectron2.utils import comm
from torch import Tensor

from .box_embedder import embed_boxes
from .losses import BOX_TRANSFORM, clip_to_images
from .matching import join_rois
from .proposal_generator import match_anchors
from .roi_heads import roi_map
from .spnet import SPNet, with_roi_map
from .swap_path import SwapPath

# Share of the mean variance of x_a that is added to its diagonal: where fewer people were seen than
# there are numbers, directions without data stay at zero.
_RIDGE = 1e-4


class AffineFit:
    """Sums for the affine map from x_a to x_q, over any number of batches and processes."""

    def __init__(self, dim: int):
        self.dim = dim
        # Of the rows (x_a, 1, x_q): all products, in float64.
        self.products = torch.zeros(2 * dim + 1, 2 * dim + 1, dtype=torch.float64)

    def add(self, x_a: Tensor, x_q: Tensor) -> None:
        """Take pairs (m, D) and (m, D) into account."""
        ones = x_a.new_ones(len(x_a), 1)
        rows = torch.cat([x_a, ones, x_q], dim=1).double().cpu()
        self.products += rows.T @ rows

    @property
    def count(self) -> int:
        """Number of pairs."""
        return int(self.products[self.dim, self.dim].round())

    def solve(self) -> tuple[Tensor, Tensor]:
        """Weight (D, D) and bias (D,) of least squared error, float32."""
        d = self.dim
        mean = self.products[d] / self.count
        # About the means, so that the ridge pulls x_q to its mean and not to zero.
        spread = self.products / self.count - mean[:, None] * mean
        covariance, both = spread[:d, :d], spread[:d, d + 1 :]
        ridge = _RIDGE * covariance.diagonal().mean() + 1e-12
        weight = torch.linalg.solve(covariance + ridge * torch.eye(d).double(), both).T
        bias = mean[d + 1 :] - weight @ mean[:d]
        return weight.float(), bias.float()


@torch.no_grad()
def matched_pairs(model: SPNet, batched_inputs: list[dict]) -> list[tuple[Tensor, Tensor]]:
    """
    What each stage's bridge maps in query-centric training: matched boxes and their queries.

    Args:
        model: an SPNet in evaluation mode.
        batched_inputs: with ground truth.

    Returns:
        ``(x_a, x_q)``, (m, D) each, of the anchors and of every cascade stage. Boxes of a stage are
        those that the stage before refines, with the true query.
    """
    targets = model.targets_of(batched_inputs)
    batch = model.batch_of(batched_inputs)
    pyramid = model.backbone.pyramid(model.backbone.trunk_maps(batch.tensor))
    features = with_roi_map(pyramid)
    anchors, x_a = model.proposal_generator.embed_anchors(batch, pyramid)
    labels, matched = match_anchors(anchors, targets)
    image, chosen = (labels == 1).nonzero(as_tuple=True)
    queries = model.roi_heads.embed_boxes(features, targets.rois).loc
    assert queries is not None
    x_q = queries[targets.rows[image, matched[image, chosen]]]
    x_a, boxes = x_a[image, chosen], anchors[chosen]
    pairs = [(x_a, x_q)]
    heads = [model.proposal_generator.box_detector, *model.roi_heads.box_detectors]
    for t, head in enumerate(heads[:-1], 1):
        _, deltas = head(SwapPath.query_centric(x_q, x_a))
        boxes = clip_to_images(BOX_TRANSFORM.apply_deltas(deltas, boxes), targets.sizes[image])
        embedder = model.roi_heads.loc_embedder(t)
        x_a = embed_boxes(embedder, roi_map(features), join_rois(image, boxes))
        pairs.append((x_a, x_q))
    return pairs


def bridges_at_zero(model: SPNet) -> list[int]:
    """Stages whose bridge is as it is built, 0 for the anchors: no checkpoint brought them."""
    return [t for t, path in enumerate(_swap_paths(model)) if not path.bridge.weight.any()]


def fit_bridges(model: SPNet, batches: Iterable[list[dict]]) -> dict[int, int]:
    """
    Set the bridges that are at zero to the least-squares maps of matched boxes to their queries.

    Args:
        model: an SPNet with bridges, as query-centric pre-training left it. All processes call
            this, each with batches of its own; all get the same bridges.
        batches: with ground truth.

    Returns:
        For each stage that was at zero the number of its pairs, of all processes. A stage without
        any stays at zero, and bridges that a checkpoint brought stay as they are.
    """
    paths, stages = _swap_paths(model), bridges_at_zero(model)
    fits = {t: AffineFit(paths[t].bridge.in_features) for t in stages}
    training = model.training
    model.eval()
    try:
        for batch in batches:
            pairs = matched_pairs(model, batch)
            for t, fit in fits.items():
                fit.add(*pairs[t])
    finally:
        model.train(training)
    for t, fit in fits.items():
        fit.products = torch.stack(comm.all_gather(fit.products)).sum(dim=0)
        if fit.count:
            weight, bias = fit.solve()
            with torch.no_grad():
                paths[t].bridge.weight.copy_(weight)
                paths[t].bridge.bias.copy_(bias)
    return {t: fit.count for t, fit in fits.items()}


def _swap_paths(model: SPNet) -> list[SwapPath]:
    return [model.proposal_generator.swap_path, *model.roi_heads.swap_paths]
