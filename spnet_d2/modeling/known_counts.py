"""What losses are divided by, where annotations alone say it.

With gradient accumulation the whole batch's counts must be there before its first part trains. In
general the network has a say in them: which boxes a stage refines well, and which it embeds.
Without stages, and with ground truth alone for re-id, it has none, and the pass that counts needs
no network.
"""

import torch
from torch import Tensor

from .proposal_generator import SwapPathProposalGenerator, anchors_of_size, match_anchors
from .roi_heads import SPNetROIHeads
from .sampling import num_sampled_positives
from .targets import Targets
from .whole_batch import Share


def known_counts(
    generator: SwapPathProposalGenerator,
    heads: SPNetROIHeads,
    padded_size: tuple[int, int],
    targets: Targets,
    reid_only: bool = False,
    with_lwf: bool = False,
) -> dict[str, Share] | None:
    """
    The losses of a batch with their counts, and sums of 0, in the order in which they are divided.

    Args:
        generator, heads: of an object-centric model.
        padded_size: height and width of the batch tensor.
        targets: ground truth, on the model's device.
        reid_only, with_lwf: which losses it has.

    Returns:
        None where the network decides, or a class that is not this package's.
    """
    if type(generator) is not SwapPathProposalGenerator or type(heads) is not SPNetROIHeads:
        return None
    if not heads.reid.gt_only or not heads.reid_loss.divides_by_rows:
        return None
    rois = targets.rois
    shares = {"loss_reid": _share(rois, len(rois))}
    if reid_only:
        return shares
    if heads.num_cascades:
        return None
    labels, _ = match_anchors(anchors_of_size(padded_size, rois.device), targets)
    shares["loss_anchor"] = _share(rois, (labels == 1).sum())
    shares["loss_box_0"] = _share(rois, num_sampled_positives(labels, generator.anchors_per_image))
    if with_lwf:
        shares["loss_lwf"] = _share(rois, len(targets))
    return shares


def _share(like: Tensor, count: Tensor | int) -> Share:
    count = torch.as_tensor(count, device=like.device)
    return Share(like.new_zeros(()), count)
