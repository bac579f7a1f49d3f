"""Counts that annotations give, against those of a pass through the network."""

from contextlib import nullcontext

import pytest
import torch
from detectron2.structures import Boxes

from spnet_d2.engine.batch_parts import count_parts
from spnet_d2.modeling import spnet
from tests.modeling.tiny import tiny_input, tiny_model

GT_ONLY = ("MODEL.SPNET.REID.GT_ONLY", True)
KNOWN = {
    # Fewer samples than there are positives.
    "detection": (*GT_ONLY, "MODEL.SPNET.NUM_CASCADES", 0, "MODEL.SPNET.ANCHORS_PER_IMAGE", 4),
    "re-id alone": (*GT_ONLY, "MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.REID.ONLY", True),
    "learning without forgetting": (
        *(*GT_ONLY, "MODEL.SPNET.NUM_CASCADES", 0),
        *("MODEL.SPNET.LWF.ENABLED", True),
    ),
}
UNKNOWN = {
    "detected boxes": ("MODEL.SPNET.NUM_CASCADES", 0),
    "stages": (*GT_ONLY, "MODEL.SPNET.NUM_CASCADES", 1),
    "query-centric": (*GT_ONLY, "MODEL.SPNET.NUM_CASCADES", 0, "MODEL.SPNET.PATHWAY", "QC"),
}
PARTS = [
    [
        tiny_input(0, (10, 12, 44, 80), (60, 5, 100, 90), size=(96, 120)),
        tiny_input(1, (3, 4, 60, 70), size=(90, 128)),
    ],
    [tiny_input(2, (20, 20, 50, 90), ignore_boxes=Boxes(torch.tensor([[60.0, 0, 128, 96]])))],
    [tiny_input(3)],
]


def counts(model):
    """What the parts of a batch count, and how often the trunk was run for it."""
    runs = []
    handle = model.backbone.trunk.register_forward_hook(lambda *_: runs.append(1))
    parts = count_parts(model, PARTS, nullcontext)
    handle.remove()
    return [torch.stack(part).tolist() for part in parts._counts], len(runs)


@pytest.mark.parametrize("name", KNOWN)
def test_annotations_give_the_counts_of_the_network(name, monkeypatch):
    model = tiny_model(*KNOWN[name]).train()
    found, runs = counts(model)
    assert runs == 0
    monkeypatch.setattr(spnet, "known_counts", lambda *_: None)
    expected, runs = counts(model)
    assert runs >= len(PARTS)
    assert found == expected and any(expected[0]) and any(expected[1])


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_the_network_decides_takes_the_network(name):
    model = tiny_model(*UNKNOWN[name]).train()
    assert counts(model)[1] == len(PARTS)
