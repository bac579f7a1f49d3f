"""The filter in a whole model: a training step, inference, and two processes that act as one."""

import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.config_checks import check_config
from spnet_d2.config_reader import ConfigError
from tests.engine.processes import together
from tests.modeling.gallery_filter.test_loss import gallery_filter, scenes_of
from tests.modeling.tiny import DIM, tiny_config, tiny_input, tiny_model

ON = ("MODEL.SPNET.GFN.ENABLED", True)
BOXES = ((10.0, 10.0, 40.0, 80.0), (60.0, 20.0, 90.0, 90.0))


def batch():
    """Two images that share a person, and one of somebody else."""
    inputs = [tiny_input(i, *BOXES, image_id=i) for i in range(3)]
    inputs[1]["instances"].gt_person_ids[1] = 7
    inputs[2]["instances"].gt_person_ids += 3
    for x in inputs:
        x["instances"].gt_identities = x["instances"].gt_person_ids.clamp(max=4)
    return inputs


@pytest.mark.parametrize("mode", ["combined", "separate", "image"])
@pytest.mark.parametrize("queries", ["batch", "oim"])
def test_training_steps(mode, queries):
    keys = ("MODEL.SPNET.GFN.MODE", mode, "MODEL.SPNET.GFN.QUERIES", queries)
    model = tiny_model(*ON, *keys).train()
    # The table is filled by the first.
    model(batch())
    losses = model(batch())
    assert losses["loss_gfn"].item() > 0
    losses["loss_gfn"].backward()
    trained = {name for name, p in model.named_parameters() if p.grad is not None}
    assert any(name.startswith("gallery_filter.embedder.") for name in trained)
    assert any(name.startswith("backbone.") for name in trained)
    assert ("gallery_filter.fuser.weight" in trained) == (mode == "combined")
    assert len(model.gallery_filter.memory) == 3


def test_the_embedder_starts_as_the_re_id_branchs_copy():
    model = tiny_model(*ON)
    own, other = (
        m.state_dict() for m in (model.gallery_filter.embedder, model.roi_heads.reid_embedder)
    )
    assert own.keys() == other.keys() and all(torch.equal(own[k], other[k]) for k in own)
    parameters = {id(p) for p in model.roi_heads.parameters()}
    assert not any(id(p) in parameters for p in model.gallery_filter.parameters())


def test_other_losses_stay_as_they_are():
    """Without gradients of its own the filter changes nothing: no random number is drawn."""
    losses = []
    for settings in ((), ON):
        model = tiny_model(*settings).train()
        torch.manual_seed(1)
        losses.append(model(batch()))
    del losses[1]["loss_gfn"]
    assert losses[0].keys() == losses[1].keys()
    assert all(torch.equal(losses[0][k], losses[1][k]) for k in losses[0])


def test_inference_gives_a_scene_for_every_image():
    model = tiny_model(*ON).eval()
    with torch.no_grad():
        results = model(batch())
        alone = model(batch()[1:2])
    assert [r["scene_embedding"].shape for r in results] == [(DIM,)] * 3
    assert results[0]["scene_fuser"].shape == (3, DIM)
    assert torch.allclose(results[1]["scene_embedding"], alone[0]["scene_embedding"], atol=1e-5)
    assert "scene_embedding" not in tiny_model().eval()(batch())[0]


def test_an_input_without_its_images_id():
    inputs = batch()
    del inputs[1]["image_id"]
    with pytest.raises(ValueError, match="needs 'image_id' in every input"):
        tiny_model(*ON).train()(inputs)


@pytest.mark.parametrize("settings, message", [
    (("MODEL.SPNET.PATHWAY", "QC"), "PATHWAY or TEST_PATHWAY is QC"),
    (("MODEL.SPNET.TEST_PATHWAY", "QC"), "PATHWAY or TEST_PATHWAY is QC"),
    (("MODEL.SPNET.GFN.MODE", "scene"), "'scene', expected one of combined, separate, image"),
    (
        ("MODEL.SPNET.GFN.MODE", "image", "MODEL.SPNET.GFN.ACTIVATION", "sum"),
        "ACTIVATION is sum, but MODEL.SPNET.GFN.MODE image has none",
    ),
    (
        ("MODEL.SPNET.GFN.QUERIES", "oim", "MODEL.SPNET.REID.LOSS", "nt_xent"),
        "QUERIES is oim, but MODEL.SPNET.REID.LOSS is nt_xent",
    ),
    (("MODEL.SPNET.REID.ONLY", True), "REID.ONLY drops the loss of MODEL.SPNET.GFN"),
], ids=str)  # fmt: skip
def test_settings_that_clash(settings, message):
    with pytest.raises(ConfigError, match=message):
        check_config(tiny_config(*ON, *settings), training=False)


def test_a_checkpoint_without_it_is_told_apart(tmp_path):
    state = build_model(tiny_config()).state_dict()
    missing, unexpected = tiny_model(*ON).load_state_dict(state, strict=False)
    assert unexpected == [] and all(name.startswith("gallery_filter.") for name in missing)


def steps_of_share(shares):
    """Losses of two steps, and the fuser's and scenes' gradients, of this process's share."""
    import torch
    from detectron2.utils import comm

    module, losses = gallery_filter(), []
    for share in shares:
        scenes = scenes_of(*share[comm.get_rank() if len(share) > 1 else 0])
        loss = module.losses(
            torch.stack([s.embedding for s in scenes]),
            torch.cat([s.queries for s in scenes]),
            [s.image_id for s in scenes],
            [s.people for s in scenes],
            [s.rows for s in scenes],
        )["loss_gfn"]
        losses.append(float(loss.detach()))
    loss.backward()
    return {
        "losses": losses,
        "fuser": module.fuser.weight.grad.tolist(),
        "scenes": [s.embedding.grad.tolist() for s in scenes],
        "mean": module.fuser.running_mean.tolist(),
    }


def test_two_processes_are_as_one():
    halves = [((10, 11), (12, 16)), ((13,), (14,))]
    first, second = together(steps_of_share, halves)
    whole = steps_of_share([((10, 11, 12, 16),), ((13, 14),)])
    assert first["losses"] == second["losses"] == pytest.approx(whole["losses"], rel=1e-5)
    assert first["mean"] == pytest.approx(whole["mean"], rel=1e-4, abs=1e-7)
    # Gradients are averaged over processes by those who train.
    assert first["fuser"] == pytest.approx(whole["fuser"], rel=1e-4, abs=1e-6)
    halved = [[x / 2 for x in row] for row in (*first["scenes"], *second["scenes"])]
    for found, expected in zip(halved, whole["scenes"], strict=True):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
