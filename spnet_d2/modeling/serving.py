"""Which of a model's weights were ever loaded: a half-loaded model must not detect."""

from collections.abc import Collection

from torch import nn

# Parts that inference runs through, whatever the pathway; the exceptions are in `serves`.
_SERVING = (
    "backbone.trunk.",
    "backbone.fpn.",
    "proposal_generator.anchor_embedder.",
    "proposal_generator.swap_path.",
    "proposal_generator.box_detector.",
    "roi_heads.reid_embedder.",
    "roi_heads.loc_embedders.",
    "roi_heads.swap_paths.",
    "roi_heads.box_detectors.",
)


class UntrainedModelError(RuntimeError):
    """Detections are asked of a model of which parts were never trained."""


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


def serves(model: nn.Module, name: str) -> bool:
    """
    Whether detections depend on a tensor.

    Args:
        model: an SPNet.
        name: of one of its tensors.

    Returns:
        False for what only training uses: the re-id memory, the momentum twin, the logits of the
        anchor loss, counters, and bridges or localisation embedders off the test pathway.
    """
    if not name.startswith(_SERVING) or name.endswith("num_batches_tracked"):
        return False
    asked, heads = model.test_pathway == "QC", model.roi_heads
    if name.startswith("proposal_generator.swap_path."):
        return not asked
    if name.startswith("roi_heads.swap_paths."):
        return not (asked and heads.query_centric)
    if name.startswith("roi_heads.loc_embedders."):
        return asked or heads.num_cascades > 0
    return True


def note_loaded(model: nn.Module, incompatible) -> None:
    """
    Remember what a ``load_state_dict(strict=False)`` left untouched, in ``model.untrained``.

    A hook for ``register_load_state_dict_post_hook``, so that it sees whoever loads, Detectron2's
    own checkpointer included. A model built without any checkpoint is not meant: its
    ``untrained`` stays None.
    """
    missing = {name for name in incompatible.missing_keys if serves(model, name)}
    before = model.untrained
    model.untrained = tuple(
        name
        for name in model.state_dict()
        if name in missing and (before is None or name in before)
    )
