"""Which of a model's weights were ever loaded: a half-loaded model must not detect.

Nor must it train: with ``MODEL.WEIGHTS`` a model is built without its trunk's pretrained weights,
since a checkpoint brings them (:func:`~.backbone.pretrained_of`).
"""

import re
from collections.abc import Collection
from typing import Any

from torch import nn

# Parts that inference runs through, whatever the pathway; the exceptions are in `serves`.
from spnet_d2.errors import UserError

_SERVING = (
    "backbone.trunk.",
    "backbone.fpn.",
    "proposal_generator.anchor_embedder.",
    "proposal_generator.swap_path.",
    "proposal_generator.box_detector.",
    "roi_heads.reid_embedder.",
    "gallery_filter.embedder.",
    "gallery_filter.fuser.",
    "roi_heads.loc_embedders.",
    "roi_heads.swap_paths.",
    "roi_heads.box_detectors.",
)


# The trunk, its stage copies in heads and momentum encoder, and the classifiers of learning without
# forgetting.
_PRETRAINED = re.compile(r"(.*\.)?(trunk|copy)\.|lwf\.")


class UntrainedModelError(UserError, RuntimeError):
    """The model can't detect: parts of it were never trained."""


def refuse_untrained(names: Collection[str]) -> None:
    """
    Stop where detections would come from weights that no checkpoint filled.

    Args:
        names: the tensors in question.

    Raises:
        UntrainedModelError: there are some; it names the first ones.
    """
    if names:
        shown = ", ".join(list(names)[:3]) + (", ..." if len(names) > 3 else "")
        raise UntrainedModelError(
            f"The checkpoint does not fit the config: it lacks {len(names)} tensors that "
            f"detections depend on, or has them in another shape ({shown}), so they are "
            "untrained. Use the config of the run that wrote the checkpoint (config.yaml in its "
            "output folder), or train this model first."
        )


def names_of_pretrained(model: nn.Module) -> frozenset[str]:
    """Tensors of a model that ``MODEL.SPNET.BACKBONE.PRETRAINED`` fills."""
    return frozenset(
        name
        for name in model.state_dict()
        if _PRETRAINED.match(name) and not name.endswith("num_batches_tracked")
    )


def refuse_random_trunk(names: Collection[str]) -> None:
    """
    Stop where training would start from random numbers in place of pretrained weights.

    Args:
        names: the tensors in question.

    Raises:
        UntrainedModelError: there are some.
    """
    if names:
        raise UntrainedModelError(
            f"Training would start from {len(names)} random tensors that pretrained weights should "
            f"fill ({min(names)}, ...): with MODEL.WEIGHTS a model is built without "
            "MODEL.SPNET.BACKBONE.PRETRAINED, and what was loaded since, if anything, lacks them. "
            "Load MODEL.WEIGHTS before training; where it doesn't bring all of them, use "
            "spnet_d2.engine.Trainer with a PRETRAINED that is there, or leave MODEL.WEIGHTS empty."
        )


def serves(model: Any, name: str) -> bool:
    """
    Whether detections depend on a tensor.

    Args:
        model: an SPNet.
        name: of one of its tensors.

    Returns:
        False for what only training uses: the re-id memory, the momentum encoder, the logits of the
        anchor loss, counters, and bridges or localisation embedders off the test pathway.
    """
    if not name.startswith(_SERVING) or name.endswith("num_batches_tracked"):
        return False
    query_centric, heads = model.test_pathway == "QC", model.roi_heads
    if name.startswith("proposal_generator.swap_path."):
        return not query_centric
    if name.startswith("roi_heads.swap_paths."):
        return not (query_centric and heads.query_centric)
    if name.startswith("roi_heads.loc_embedders."):
        return query_centric or heads.num_cascades > 0
    return True


def note_loaded(model: Any, incompatible: Any) -> None:
    """
    Remember what a ``load_state_dict(strict=False)`` left untouched, in ``model.untrained``, and
    what of ``model.awaited`` is still to come.

    A hook for ``register_load_state_dict_post_hook``, so that it sees whoever loads, Detectron2's
    own checkpointer included. A model built without any checkpoint is not meant: its
    ``untrained`` stays None.
    """
    model.awaited &= frozenset(incompatible.missing_keys)
    missing = {name for name in incompatible.missing_keys if serves(model, name)}
    before = model.untrained
    model.untrained = tuple(
        name
        for name in model.state_dict()
        if name in missing and (before is None or name in before)
    )
