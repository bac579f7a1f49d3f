"""Batches that a gallery filter on SeqNeXt or SeqNet has to stand, and what it leaves alone."""

import pytest
import torch
from detectron2.modeling import build_model

from tests.modeling.tiny import DIM, tiny_config, tiny_input

BOXES = ((10.0, 10.0, 40.0, 80.0), (60.0, 20.0, 90.0, 90.0))


def model_of(kind="SeqNeXt", *settings):
    keys = ("MODEL.META_ARCHITECTURE", kind, "MODEL.SPNET.ANCHORS_PER_IMAGE", 128)
    cfg = tiny_config(*keys, "MODEL.SPNET.GFN.ENABLED", True, *settings)
    if kind == "SeqNet":
        cfg.MODEL.SPNET.BACKBONE.NAME = "test_resnet"
    torch.manual_seed(0)
    return build_model(cfg)


def image(number, *boxes, known=True, size=(96, 128)):
    x = tiny_input(number, *boxes, image_id=number, size=size)
    # Nobody is in two images.
    identities = x["instances"].gt_identities
    x["instances"].gt_person_ids = identities + 10 * number
    x["instances"].gt_identities = identities if known else torch.full_like(identities, -1)
    return x


BATCHES = {
    "nobody": [image(0), image(1)],
    "one image without people": [image(0, *BOXES), image(1), image(2, BOXES[0])],
    "unknown people": [image(0, *BOXES, known=False), image(1, BOXES[0], known=False)],
    "one person": [image(0, BOXES[0])],
    "one image": [image(0, *BOXES)],
    "an image twice": [image(0, *BOXES), image(0, *BOXES)],
}


@pytest.mark.parametrize(
    ("name", "queries"),
    [*((name, "batch") for name in BATCHES), ("nobody", "oim"), ("unknown people", "oim")],
)
def test_batches(name, queries):
    batch = BATCHES[name]
    model = model_of("SeqNeXt", "MODEL.SPNET.GFN.QUERIES", queries).train()
    losses = model(batch)
    assert all(torch.isfinite(loss) for loss in losses.values())
    sum(losses.values()).backward()
    assert int(model.gallery_filter.step) == 1
    with_people = {x["image_id"] for x in batch if len(x["instances"])}
    assert len(model.gallery_filter.memory) == len(with_people)
    trained = model.gallery_filter.named_parameters()
    without = [n for n, p in trained if p.requires_grad and p.grad is None]
    assert without == [], "several processes wait for every gradient"


@pytest.mark.parametrize("kind", ["SeqNet", "SeqNeXt"])
def test_the_scene_branch_is_the_second_heads_copy(kind):
    model = model_of(kind)
    embedder, heads = model.gallery_filter.embedder, model.roi_heads
    parts = ((embedder.head, heads.second_head), (embedder.embedding, heads.embedding))
    for own, other in parts:
        copied, given = own.state_dict(), other.state_dict()
        assert all(torch.equal(copied[name], given[name]) for name in copied)
        assert not {id(p) for p in own.parameters()} & {id(p) for p in other.parameters()}
    # A scene has no logit.
    assert not any("rescaler" in name for name in model.gallery_filter.state_dict())
    model.train()
    frozen = [m.training for m in embedder.head.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert frozen == [kind == "SeqNet"] * len(frozen)


@pytest.mark.parametrize("kind", ["SeqNet", "SeqNeXt"])
def test_results_do_not_depend_on_other_images(kind):
    model = model_of(kind).eval()
    inputs = [image(0, *BOXES), image(1, BOXES[0], size=(64, 160)), image(2, size=(90, 120))]
    with torch.no_grad():
        together, alone = model(inputs), [model([x])[0] for x in inputs]
    for one, other in zip(together, alone, strict=True):
        assert one["scene_embedding"].shape == (DIM,)
        assert one["scene_embedding"].norm().item() == pytest.approx(1, abs=1e-5)
        torch.testing.assert_close(one["scene_embedding"], other["scene_embedding"])
        torch.testing.assert_close(one["gt_embeddings"], other["gt_embeddings"])
        assert len(one["instances"]) == len(other["instances"])
