"""The whole model on small random inputs: contract, sizes, batches, bad input, frozen outputs."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch.testing import assert_close

from spnet_d2.testing import deterministic_sampling
from spnet_d2.utils.warn_once import warn_once

from .tiny import DIM, person_boxes, tiny_input, tiny_model

BOX_A, BOX_B = (10, 12, 44, 80), (60, 5, 100, 90)
VARIANTS = [
    (),
    ("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.TEST_PATHWAY", "OC"),
    ("MODEL.SPNET.NUM_CASCADES", 2),
    ("MODEL.SPNET.NUM_CASCADES", 3, "MODEL.SPNET.SEPARATE_HEADS", True, "MODEL.SPNET.REID_DIM", 43),
    ("MODEL.SPNET.SEPARATE_HEADS", True, "MODEL.SPNET.REID_DIM", 343),
    ("MODEL.SPNET.ANCHOR_LOGITS", "batch_norm", "MODEL.SPNET.CLS_LOGITS", "batch_norm"),
    ("MODEL.SPNET.ANCHOR_LOGITS", "noscale", "MODEL.SPNET.CLS_LOGITS", "noscale"),
    ("MODEL.SPNET.CLS_LOGITS", "mlp"),
    ("MODEL.SPNET.POSITIVE_NORM", True, "MODEL.SPNET.NUM_CASCADES", 1),
    ("MODEL.SPNET.BACKBONE.FREEZE", True, "MODEL.SPNET.BACKBONE.FREEZE_BN", True),
    ("MODEL.SPNET.EMBED_DIM", 343, "MODEL.SPNET.REID_DIM", 343),
]


@pytest.mark.parametrize("overrides", VARIANTS, ids=lambda o: "-".join(map(str, o[1::2])) or "base")
def test_every_variant_trains_and_detects(overrides):
    model = tiny_model(*overrides)
    options = dict(zip(overrides[::2], overrides[1::2]))
    cascades = options.get("MODEL.SPNET.NUM_CASCADES", 0)
    losses = model([tiny_input(0, BOX_A, BOX_B), tiny_input(1, BOX_A)])
    rounds = range(1, cascades + 1)
    assert list(losses) == [
        "loss_anchor",
        "loss_box_0",
        *(name for t in rounds for name in (f"loss_cls_{t}", f"loss_box_{t}")),
        "loss_reid",
    ]
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    frozen = options.get("MODEL.SPNET.BACKBONE.FREEZE", False)
    trunk = [p.grad is not None for p in model.backbone.trunk.parameters()]
    assert any(trunk) != frozen

    model.eval()
    with torch.no_grad():
        (output,) = model([tiny_input(2, BOX_A, BOX_B)])
    dim = options.get("MODEL.SPNET.EMBED_DIM", DIM)
    reid_dim = options.get("MODEL.SPNET.REID_DIM", DIM)
    found = output["instances"]
    n = len(found)
    assert found.pred_boxes.tensor.shape == (n, 4)
    assert found.scores.shape == found.pred_classes.shape == (n,)
    assert found.reid_embeddings.shape == (n, reid_dim)
    assert output["gt_embeddings"]["reid"].shape == (2, reid_dim)
    assert output["gt_embeddings"]["loc"].shape == (2, dim)
    if cascades == 0:
        assert (found.scores > 0.5).all()


@pytest.mark.parametrize("trains", [True, False])
def test_ground_truth_reaches_the_norms_of_separate_heads(trains):
    """In the object-centric pathway, too, though nothing else takes these embeddings."""
    model = tiny_model(
        *("MODEL.SPNET.BACKBONE.NAME", "test_resnet", "MODEL.SPNET.SEPARATE_HEADS", True),
        *("MODEL.SPNET.BACKBONE.FREEZE_BN", not trains),
    )
    model([tiny_input(0, BOX_A, BOX_B), tiny_input(1, BOX_A)])
    buffers = dict(model.roi_heads.loc_embedders.named_buffers())
    seen = {int(n) for name, n in buffers.items() if name.endswith("num_batches_tracked")}
    assert seen == {int(trains)}


def test_it_detects_something():
    """Guards the tests of detections below against comparing nothing with nothing."""
    with torch.no_grad():
        (output,) = tiny_model().eval()([tiny_input(0)])
    assert len(output["instances"]) > 3


@pytest.mark.parametrize("size", [(7, 5), (32, 32), (33, 31), (61, 200)])
def test_any_image_size(size):
    """The smallest has fewer anchors than the top-k before scoring."""
    box = (0, 0, size[1] - 1, size[0] - 1)
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 1)
    losses = model([tiny_input(0, box, size=size)])
    assert all(torch.isfinite(v) for v in losses.values())
    with torch.no_grad():
        (output,) = model.eval()([tiny_input(0, box, size=size)])
    boxes = output["instances"].pred_boxes.tensor
    assert (boxes >= 0).all()
    assert (boxes <= torch.tensor([size[1], size[0]] * 2)).all()


def test_batches_give_what_single_images_give():
    sizes = [(96, 128), (64, 160), (96, 128), (90, 120)]
    inputs = [tiny_input(i, (5, 5, 40, 60), size=size) for i, size in enumerate(sizes)]
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 1).eval()
    with torch.no_grad():
        together = model(inputs)
        alone = [model([x])[0] for x in inputs]
    for a, b in zip(together, alone, strict=True):
        assert len(a["instances"]) == len(b["instances"])
        for name in ("scores", "reid_embeddings"):
            expected = b["instances"].get(name)
            assert_close(a["instances"].get(name), expected, rtol=1e-4, atol=1e-5)
        assert_close(
            a["instances"].pred_boxes.tensor,
            b["instances"].pred_boxes.tensor,
            rtol=1e-4,
            atol=1e-3,
        )
        assert_close(a["gt_embeddings"]["reid"], b["gt_embeddings"]["reid"], rtol=1e-4, atol=1e-5)


def test_boxes_come_back_in_the_original_frame():
    model = tiny_model().eval()
    x = tiny_input(0)
    del x["instances"]
    with torch.no_grad():
        (same,) = model([x])
        (scaled,) = model([{**x, "height": 48, "width": 384}])
    assert "gt_embeddings" not in same
    assert scaled["instances"].image_size == (48, 384)
    expected = same["instances"].pred_boxes.tensor * torch.tensor([3.0, 0.5, 3.0, 0.5])
    assert_close(scaled["instances"].pred_boxes.tensor, expected)
    assert_close(scaled["instances"].reid_embeddings, same["instances"].reid_embeddings)


def test_given_boxes_and_detections_share_the_embedder():
    """A detection's box, given as ground truth, gets the detection's embedding."""
    model = tiny_model().eval()
    with torch.no_grad():
        (first,) = model([tiny_input(0)])
        boxes = first["instances"].pred_boxes.tensor.tolist()
        (second,) = model([tiny_input(0, *boxes)])
    assert_close(
        second["gt_embeddings"]["reid"], first["instances"].reid_embeddings, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("cascades", [0, 2])
def test_images_and_batches_without_people(cascades):
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", cascades)
    for batch in ([tiny_input(0), tiny_input(1, BOX_A)], [tiny_input(0), tiny_input(1)]):
        losses = model(batch)
        total = sum(losses.values())
        assert torch.isfinite(total)
        total.backward()
    assert losses["loss_box_0"] == 0
    assert losses["loss_reid"] == 0
    assert losses["loss_anchor"] > 0


def test_two_people_twice_in_one_image():
    x = tiny_input(0, BOX_A, BOX_A, BOX_B, BOX_B)
    x["instances"].gt_identities = torch.tensor([1, 1, 2, 2])
    losses = tiny_model()([x])
    assert all(torch.isfinite(v) for v in losses.values())


def test_ignore_regions_change_the_anchor_loss_only_there():
    model = tiny_model()
    everything = Boxes(torch.tensor([[0.0, 0, 128, 96]]))
    with deterministic_sampling():
        plain = model([tiny_input(0, BOX_A)])
        ignoring = model([tiny_input(0, BOX_A, ignore_boxes=everything)])
        elsewhere = model([tiny_input(0, BOX_A, ignore_boxes=Boxes(torch.zeros(0, 4)))])
    assert ignoring["loss_anchor"] < plain["loss_anchor"]
    assert_close(elsewhere["loss_anchor"], plain["loss_anchor"])


def test_loss_weights():
    box = ("MODEL.SPNET.SMALL_DATA.BOX_LOSS_WEIGHT", 5.0)
    weights = (*box, "MODEL.SPNET.REID.LOSS_WEIGHT", 7.0)
    cascade = ("MODEL.SPNET.NUM_CASCADES", 1)
    batch = [tiny_input(0, BOX_A, BOX_B)]
    with deterministic_sampling():
        plain, weighted = tiny_model(*cascade)(batch), tiny_model(*cascade, *weights)(batch)
    factors = {
        "loss_anchor": 1,
        "loss_box_0": 5,
        "loss_cls_1": 1,
        "loss_box_1": 5,
        "loss_reid": 7,
    }
    for name, factor in factors.items():
        assert_close(weighted[name], factor * plain[name])


def test_saved_embeddings_of_an_untouched_model_do_not_drift():
    """Frozen outputs: any numeric change of the forward path shows here."""
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 1)
    inputs = [tiny_input(3, BOX_A, BOX_B), tiny_input(4, BOX_B)]
    for x in inputs:
        # An image by formula: random generators may change between releases of torch.
        y, w = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
        waves = [torch.sin(w / (5 + c) + y / (7 - c)) for c in range(3)]
        x["image"] = 127 + 100 * torch.stack(waves)
    for name, parameter in model.named_parameters():
        flat = torch.arange(parameter.numel(), dtype=torch.float64)
        wave = torch.sin(flat * 0.7 + len(name)).reshape(parameter.shape)
        scale = 1 / max(1.0, (parameter.numel() / len(parameter))) ** 0.5
        if parameter.dim() == 1 and name.endswith("weight"):
            parameter.data = 1 + 0.1 * wave.float()
        else:
            parameter.data = (wave * scale).float()
    with deterministic_sampling():
        losses = model(inputs)
    found = {name: value.item() for name, value in losses.items()}
    assert found == pytest.approx(FROZEN_LOSSES, rel=1e-3, abs=1e-4)
    with torch.no_grad():
        (output, _) = model.eval()(inputs)
    reid = output["gt_embeddings"]["reid"]
    assert reid[0, :4].tolist() == pytest.approx(FROZEN_EMBEDDING, rel=1e-3)


FROZEN_LOSSES = {
    "loss_anchor": 1.79757,
    "loss_box_0": 1.31038,
    "loss_cls_1": 8.8472,
    "loss_box_1": 1.40839,
    "loss_reid": 0.0,
}
FROZEN_EMBEDDING = [-0.782315, 2.265968, -2.496382, 1.586149]


class TestBadInput:
    def test_no_images(self):
        for model in (tiny_model(), tiny_model().eval()):
            with pytest.raises(ValueError, match="empty list"):
                model([])

    @pytest.mark.parametrize(
        "image",
        [None, torch.zeros(4, 4), torch.zeros(1, 4, 4), torch.zeros(3, 0, 4)],
        ids=["none", "no-channels", "grey", "no-pixels"],
    )
    def test_not_an_image(self, image):
        with pytest.raises(ValueError, match="image_id 7"):
            tiny_model().eval()([{"image": image, "image_id": 7}])

    @pytest.mark.parametrize("batch", [torch.zeros(3, 8, 8), {"image": 1}, [None], ["0.jpg"]])
    def test_no_list_of_dicts(self, batch):
        with pytest.raises(ValueError, match="Expected a list of dicts .* found (Tensor|None|str)"):
            tiny_model().eval()(batch)

    def test_nan_pixels(self):
        for value in (float("nan"), float("inf"), -float("inf")):
            image = torch.zeros(3, 32, 32)
            image[0, 3, 3] = value
            with pytest.raises(ValueError, match="NaN.*x.jpg"):
                tiny_model().eval()([{"image": image, "file_name": "x.jpg"}])

    @torch.no_grad()
    def test_pixels_from_0_to_1(self, caplog):
        """Nothing is wrong with a dark image of bytes, or a black one."""
        warn_once.cache_clear()
        model = tiny_model().eval()
        for image in (torch.ones(3, 32, 32, dtype=torch.uint8), torch.zeros(3, 32, 32)):
            model([{"image": image}])
        assert "0..255" not in caplog.text
        model([{"image": torch.rand(3, 32, 32)}])
        assert "no pixel above 1, but values 0..255 are expected" in caplog.text

    @pytest.mark.parametrize("box", [(5, 5, 5, 20), (9, 9, 4, 20), (0, 0, float("nan"), 3)])
    def test_degenerate_box(self, box):
        with pytest.raises(ValueError, match="x2 > x1.*image_id 3"):
            tiny_model()([tiny_input(0, BOX_A, box, image_id=3)])

    def test_training_without_ground_truth(self):
        x = tiny_input(0)
        del x["instances"]
        with pytest.raises(ValueError, match="instances"):
            tiny_model()([x])

    @pytest.mark.parametrize(
        ("overrides", "message"),
        [
            (("MODEL.SPNET.REID_DIM", 8), "SEPARATE_HEADS"),
            (("MODEL.SPNET.PATHWAY", "OO"), "PATHWAY"),
            (("MODEL.SPNET.CLS_LOGITS", "softmax"), "fixed_norm"),
            (("MODEL.SPNET.NUM_CASCADES", -1), "NUM_CASCADES"),
            (("MODEL.SPNET.BACKBONE.NAME", "convnext_titan"), "convnext_tiny"),
            (("MODEL.SPNET.BACKBONE.NAME", "vit_tiny_patch16_224"), "strides"),
            (("MODEL.SPNET.REID.LOSS", "triplet"), "oim"),
            (("MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True), "REID.LOSS is 'oim'"),
            (("MODEL.SPNET.QC.PAIRS_PER_BATCH", 0), "QC.PAIRS_PER_BATCH must be 1 or more"),
            (("TEST.DETECTIONS_PER_IMAGE", 0), "DETECTIONS_PER_IMAGE must be 1 or more"),
        ],
    )
    def test_bad_config(self, overrides, message):
        with pytest.raises(ValueError, match=message):
            tiny_model(*overrides)

    def test_diverged_model(self):
        model = tiny_model("MODEL.SPNET.NUM_CASCADES", 1)
        torch.nn.init.constant_(model.proposal_generator.box_detector.box_head[1].bias, torch.nan)
        losses = model([tiny_input(0, BOX_A)])
        assert losses["loss_box_0"].isnan() and losses["loss_cls_1"].isnan()

    def test_missing_weight_file(self):
        with pytest.raises(FileNotFoundError, match="no/such/file.pth"):
            tiny_model("MODEL.SPNET.BACKBONE.PRETRAINED", "no/such/file.pth")


def test_instances_of_length_zero_are_fine_at_inference():
    model = tiny_model().eval()
    x = tiny_input(0)
    x["instances"] = person_boxes()
    with torch.no_grad():
        (output,) = model([x])
    assert output["gt_embeddings"]["reid"].shape == (0, DIM)
    assert isinstance(output["instances"], Instances)


@pytest.mark.parametrize("pathway", ["OC", "QC"])
def test_background_of_ignore_regions_trains_no_round(pathway, monkeypatch):
    """Refined boxes in there are neither sampled as background nor counted as such."""
    model = tiny_model("MODEL.SPNET.NUM_CASCADES", 2, "MODEL.SPNET.PATHWAY", pathway)
    seen = []
    monkeypatch.setattr(
        "spnet_d2.modeling.roi_heads.class_loss",
        lambda logits, labels: seen.append(labels) or logits.sum() * 0,
    )
    everything = Boxes(torch.tensor([[0.0, 0, 128, 96]]))
    model([tiny_input(0, BOX_A, ignore_boxes=everything), tiny_input(1, BOX_B)])
    ignoring = torch.cat(seen)
    seen.clear()
    model([tiny_input(0, BOX_A), tiny_input(1, BOX_B)])
    plain = torch.cat(seen)
    assert (ignoring == 1).any() and (plain == 1).any()
    assert 0 < (ignoring == 0).sum() < 0.7 * (plain == 0).sum()
    seen.clear()
    model([tiny_input(0, BOX_A, ignore_boxes=everything)])
    inside = torch.cat(seen)
    assert (inside == 1).any() and not (inside == 0).any()
