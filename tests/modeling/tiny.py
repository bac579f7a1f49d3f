"""A small SPNet with random weights, and inputs for it."""

import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from spnet_d2.config import add_spnet_config

TRUNK = "test_convnext"
DIM = 16


def tiny_config(*overrides):
    """Config of a model that takes milliseconds."""
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.MODEL.DEVICE = "cpu"
    options = cfg.MODEL.SPNET
    options.BACKBONE.NAME = TRUNK
    options.BACKBONE.PRETRAINED = ""
    options.EMBED_DIM = options.REID_DIM = DIM
    options.ANCHORS_PER_IMAGE = 16
    options.REID.NUM_IDENTITIES = 5
    options.REID.QUEUE_SIZE = 6
    cfg.merge_from_list(list(overrides))
    return cfg


def tiny_model(*overrides, seed: int = 0):
    """
    Such a model, with weights under which it detects something.

    A new SPNet scores no anchor over 0.5: its offsets start far longer than FixedNorm's mean.
    """
    torch.manual_seed(seed)
    model = build_model(tiny_config(*overrides))
    generator = model.proposal_generator
    with torch.no_grad():
        generator.anchor_embedder.conv.bias.zero_()
        generator.anchor_embedder.conv.weight.normal_(std=0.03)
    return model


def person_boxes(*boxes, size=(96, 128), start: int = 0):
    """Ground truth of boxes (x1, y1, x2, y2) of different known people."""
    n = len(boxes)
    ids = torch.arange(start, start + n)
    return Instances(
        size,
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(n, 4)),
        gt_classes=torch.zeros(n, dtype=torch.int64),
        gt_person_ids=ids,
        gt_identities=ids,
    )


def tiny_input(seed: int, *boxes, size=(96, 128), **extra):
    """A random image with boxes."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
    instances = person_boxes(*boxes, size=size)
    return {"image": image, "height": size[0], "width": size[1], "instances": instances, **extra}
