"""Re-id losses by name."""

import pytest
import torch
from detectron2.utils.registry import Registry

from spnet_d2.modeling.reid_losses import (
    REID_LOSSES,
    MomentumQueueLoss,
    NTXentLoss,
    OIMLoss,
    ReidLoss,
    build_reid_loss,
)
from tests.modeling.tiny import tiny_config, tiny_input, tiny_model


@pytest.fixture
def own_loss():
    """A loss of a user's, until the test is over."""

    @REID_LOSSES.register("pull_together")
    class PullTogether(ReidLoss):
        takes = ("num_gt",)

        @classmethod
        def from_config(cls, cfg):
            loss = cls()
            loss.scale = cfg.MODEL.SPNET.REID.SCALE
            return loss

        def forward(self, embeddings, person_ids, num_gt):
            self.seen = person_ids[len(person_ids) - num_gt :]
            return self.scale * embeddings.square().mean()

    yield PullTogether
    del REID_LOSSES._obj_map["pull_together"]


@pytest.mark.parametrize(
    ("name", "kind", "id_field"),
    [
        ("oim", OIMLoss, "gt_identities"),
        ("momentum_queue", MomentumQueueLoss, "gt_person_ids"),
        ("nt_xent", NTXentLoss, "gt_person_ids"),
    ],
)
def test_a_name_gives_its_class_and_the_identities_it_takes(name, kind, id_field):
    loss = build_reid_loss(tiny_config("MODEL.SPNET.REID.LOSS", name))

    assert isinstance(REID_LOSSES, Registry)
    assert type(loss) is kind and loss.id_field == id_field


def test_an_unknown_name_is_told_with_the_known_ones():
    cfg = tiny_config("MODEL.SPNET.REID.LOSS", "triplets")

    with pytest.raises(ValueError, match="is 'triplets', expected one of .*oim"):
        build_reid_loss(cfg)


def test_a_loss_of_ones_own_is_a_class_and_a_line(own_loss):
    model = tiny_model("MODEL.SPNET.REID.LOSS", "pull_together")
    batch = [tiny_input(i, (10, 10, 50, 80), (60, 5, 110, 90)) for i in range(2)]

    losses = model(batch)

    assert type(model.roi_heads.reid_loss) is own_loss
    assert losses["loss_reid"] > 0
    expected = torch.cat([x["instances"].gt_person_ids for x in batch])
    assert torch.equal(model.roi_heads.reid_loss.seen, expected)
