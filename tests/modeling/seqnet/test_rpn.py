"""Anchors, box coders and losses of SeqNet's proposals: numbers of the authors' code."""

import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.modeling.seqnet.rpn import RegionProposals, anchors_of, box_loss, cell_anchors
from tests.modeling.tiny import tiny_config

# Half extents of the cells by ratio, then by size: width, height.
HALVES = [
    *((23, 11), (45, 23), (91, 45), (181, 91), (362, 181)),
    *((16, 16), (32, 32), (64, 64), (128, 128), (256, 256)),
    *((11, 23), (23, 45), (45, 91), (91, 181), (181, 362)),
]
ANCHOR, BOX = (10.0, 10.0, 50.0, 90.0), (12.0, 8.0, 60.0, 100.0)
SQUARE = (0.0, 0.0, 20.0, 20.0)


def test_cells_are_ratio_major_with_rounded_halves():
    cells = cell_anchors()
    assert cells[:, 2:].tolist() == [list(map(float, half)) for half in HALVES]
    assert torch.equal(cells[:, :2], -cells[:, 2:])


def test_anchors_stand_on_multiples_of_the_stride_row_by_row():
    anchors = anchors_of(2, 3, cell_anchors())
    assert anchors.shape == (2 * 3 * 15, 4)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    places = [[16.0 * x, 16.0 * y] for y in range(2) for x in range(3)]
    assert centres[::15].tolist() == places
    # All of a position come one after another.
    assert torch.equal(centres.view(6, 15, 2), centres[::15, None].expand(6, 15, 2))


@pytest.fixture(scope="module")
def coders():
    """Of proposals, and of both heads."""
    heads = build_model(tiny_config(*SEQNEXT)).roi_heads
    return RegionProposals(8, 0.0).coder, heads.coder


SEQNEXT = ("MODEL.META_ARCHITECTURE", "SeqNeXt", "MODEL.SPNET.ANCHORS_PER_IMAGE", 128)


def test_encoding(coders):
    of_proposals, of_heads = coders
    anchors = torch.tensor([ANCHOR, SQUARE])
    boxes = torch.tensor([BOX, (30.0, 30.0, 50.0, 60.0)])
    expected = torch.tensor([[1.5, 0.5, 0.911608, 0.698810], [15.0, 17.5, 0.0, 2.027325]])
    torch.testing.assert_close(of_heads.get_deltas(anchors, boxes), expected, rtol=0, atol=1e-6)
    plain = expected / torch.tensor([10.0, 10.0, 5.0, 5.0])
    torch.testing.assert_close(of_proposals.get_deltas(anchors, boxes), plain, rtol=0, atol=1e-6)


def test_decoding_clamps_sizes(coders):
    _, of_heads = coders
    anchors = torch.tensor([ANCHOR, SQUARE])
    deltas = torch.tensor([[1.0, -2.0, 1.5, 2.0], [0.0, 0.0, 0.0, 25.0]])
    expected = torch.tensor(
        [[7.002823, -25.672989, 60.997177, 93.672989], [0.0, -615.00006, 20.0, 635.00006]]
    )
    torch.testing.assert_close(of_heads.apply_deltas(deltas, anchors), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("smooth", "expected"), [(0.0, 1.25), (1 / 9, 1.1001389), (1.0, 0.52125)])
def test_box_losses(smooth, expected):
    """L1 of SeqNet's proposals, smooth L1 of SeqNeXt's, and that of both heads."""
    found = torch.tensor([[0.05, 0.2, -1.0]])
    loss = box_loss(found, torch.zeros(1, 3), smooth)
    assert loss.item() == pytest.approx(expected, rel=1e-6)
