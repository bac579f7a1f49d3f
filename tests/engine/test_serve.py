"""Models are served from a config and a checkpoint alone; pretrained weights that can't be had."""

from argparse import Namespace

import numpy as np
import pytest
import timm
import torch
import torchvision
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model

from spnet_d2.checkpoint.pretrained import PretrainedWeightsError
from spnet_d2.checkpoint.untrained import UntrainedModelError
from spnet_d2.engine import Trainer, serve, setup
from spnet_d2.search import PersonSearchPredictor

PRETRAINED, NAME = "MODEL.SPNET.BACKBONE.PRETRAINED", "MODEL.SPNET.BACKBONE.NAME"
TWIN = ["MODEL.SPNET.REID.LOSS", "momentum_queue", "MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True]
LWF = ["MODEL.SPNET.LWF.ENABLED", True]


def configured(opts, *more):
    return setup(Namespace(config_file="", opts=[*opts, *more]))


@pytest.fixture
def run(tiny_opts, tmp_path):
    """Config of a finished pre-training with all that training only needs, and its weights."""
    opts = [*tiny_opts, *TWIN, *LWF, "OUTPUT_DIR", str(tmp_path / "run")]
    cfg = configured(opts)
    path = tmp_path / "run" / "model_final.pth"
    torch.save({"model": build_model(cfg).state_dict()}, path)
    cfg.defrost()
    cfg.MODEL.WEIGHTS = str(path)
    return cfg


@pytest.fixture
def offline(monkeypatch):
    """Downloads fail; the list has those that were tried."""
    tried = []

    def fail(kind):
        def download(*args, **kwargs):
            tried.append(kind)
            raise ConnectionError("Name or service not known")

        return download

    enum = torchvision.models.ConvNeXt_Tiny_Weights
    monkeypatch.setattr(enum, "get_state_dict", fail("torchvision"))
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_hf", fail("hub"))
    monkeypatch.setattr(timm.models._builder, "load_state_dict_from_url", fail("hub"))
    return tried


@pytest.mark.parametrize("pretrained", ["hub", "torchvision", "no/such/file.pth"])
def test_serving_needs_the_checkpoint_alone(run, offline, pretrained, caplog):
    run.MODEL.SPNET.BACKBONE.PRETRAINED = pretrained
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    found = DefaultPredictor(run)(image)["instances"]
    model = serve(run)
    assert model.twin is None and model.lwf is None and not model.training
    expected = PersonSearchPredictor(run).detect([image])[0]
    # DefaultPredictor resizes by Detectron2's rule.
    assert len(found) > 0 and len(expected) > 0
    assert not offline and "No checkpoint was loaded" not in caplog.text


def test_weights_are_found_in_the_folder_of_the_run(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    serve(run, "model_final.pth")
    with pytest.raises(FileNotFoundError, match=r"No weight file at .*/a.pth, nor at .*/run/a.pth"):
        serve(run, "a.pth")
    with pytest.raises(FileNotFoundError, match=r"is the folder .*run.* has model_final.pth"):
        serve(run, run.OUTPUT_DIR)


def test_a_model_that_never_saw_weights_says_so(run, offline, caplog):
    run.MODEL.WEIGHTS = ""
    predictor = DefaultPredictor(run)
    for _ in range(2):
        predictor(np.zeros((40, 50, 3), np.uint8))
    assert caplog.text.count("No checkpoint was loaded into this model") == 1
    run.MODEL.SPNET.BACKBONE.PRETRAINED = "hub"
    for resume in (False, True):
        with pytest.raises(UntrainedModelError, match=r"MODEL\.WEIGHTS is empty"):
            serve(run, resume=resume)
    assert not offline


@pytest.mark.parametrize(
    ("pretrained", "name", "where"),
    [
        ("hub", "test_convnext.r160_in1k", "huggingface.co/timm/test_convnext.r160_in1k"),
        ("torchvision", "convnext_tiny.fb_in1k", "download.pytorch.org/models/convnext_tiny"),
        ("no/such/file.pth", "test_convnext.r160_in1k", "/no/such/file.pth"),
    ],
)
def test_training_from_nothing_stops_before_the_data_are_read(
    tiny_opts, tmp_path, offline, monkeypatch, pretrained, name, where
):
    reads = []
    monkeypatch.setattr("spnet_d2.engine.job_config.iterations_per_epoch", reads.append)
    opts = [*tiny_opts, PRETRAINED, pretrained, NAME, name, "OUTPUT_DIR", str(tmp_path)]
    with pytest.raises(PretrainedWeightsError) as caught:
        configured(opts)
    text = str(caught.value)
    assert PRETRAINED in text and where in text and "\n" not in text and not reads
    if "/" not in pretrained:
        assert name in text and "give its path" in text and "Name or service not known" in text


def test_a_learning_teacher_names_its_download(offline):
    from spnet_d2.modeling.lwf import imagenet_classifier

    with pytest.raises(PretrainedWeightsError, match=r"PRETRAINED is 'hub'.*huggingface.co"):
        imagenet_classifier("test_convnext.r160_in1k", "hub")


def test_fine_tuning_offline_takes_all_from_the_checkpoint(tiny_opts, run, tmp_path, caplog):
    opts = [*tiny_opts, PRETRAINED, "no/such/file.pth", "OUTPUT_DIR", str(tmp_path / "tuned")]
    opts += ["MODEL.WEIGHTS", run.MODEL.WEIGHTS, "SOLVER.EPOCHS", 0, "SOLVER.MAX_ITER", 1]
    trainer = Trainer(configured(opts))
    assert "have to come from MODEL.WEIGHTS" in (tmp_path / "tuned" / "log.txt").read_text()
    trainer.resume_or_load(resume=False)
    source = torch.load(run.MODEL.WEIGHTS, weights_only=True)["model"]
    state = trainer.model.state_dict()
    trunk = [name for name in state if name.startswith("backbone.trunk.")]
    assert trunk and all(torch.equal(state[name], source[name]) for name in trunk)
    trainer.train()


@pytest.mark.parametrize("lacking", ["teacher", "stage copies", "everything"])
def test_random_numbers_do_not_pass_for_pretrained_weights(tiny_opts, run, tmp_path, lacking):
    """The checkpoint lacks what PRETRAINED would have filled, and that isn't there."""
    opts = [*tiny_opts, PRETRAINED, "no/such/file.pth", "MODEL.WEIGHTS", run.MODEL.WEIGHTS]
    if lacking == "teacher":
        opts += LWF
    elif lacking == "stage copies":
        opts += ["MODEL.SPNET.SEPARATE_HEADS", True, "MODEL.SPNET.INIT.CASCADE", "PT"]
        opts += ["MODEL.SPNET.NUM_CASCADES", 2]
    trainer = Trainer(configured(opts, "OUTPUT_DIR", str(tmp_path / "tuned")))
    if lacking != "everything":
        trainer.resume_or_load(resume=False)
    with pytest.raises(UntrainedModelError, match=r"Training would start from \d+ random tensors"):
        trainer.train()


def test_detectron2s_checkpointer_brings_awaited_weights(run):
    run.MODEL.SPNET.BACKBONE.PRETRAINED = "no/such/file.pth"
    model = build_model(run)
    assert model.awaited
    DetectionCheckpointer(model).load(run.MODEL.WEIGHTS)
    assert not model.awaited


def test_awaited_are_the_tensors_that_pretrained_weights_fill(run):
    run.MODEL.SPNET.BACKBONE.PRETRAINED = "hub"
    model = build_model(run)
    expected = {"backbone.trunk.", "roi_heads.reid_embedder.copy.", "twin.", "lwf."}
    found = {next(e for e in expected if n.startswith(e)) for n in model.awaited}
    assert found == expected
    assert not any("projectors" in name or "fpn" in name for name in model.awaited)


def test_a_batch_without_people_names_the_mapper(run):
    from detectron2.structures import Boxes, Instances

    instances = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[1.0, 2, 30, 40]])))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    run.MODEL.WEIGHTS = ""
    model = build_model(run).train()
    with pytest.raises(ValueError, match=r"needs gt_person_ids, gt_identities in .*cat.jpg.*found "
                       r"gt_boxes, gt_classes.*PersonSearchMapper"):  # fmt: skip
        model([{"image": torch.zeros(3, 64, 64), "instances": instances, "file_name": "cat.jpg"}])
