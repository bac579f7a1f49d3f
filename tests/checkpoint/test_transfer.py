"""Weights of one SPNet in another, part by part."""

from functools import lru_cache

import pytest
import torch
from detectron2.engine import DefaultPredictor

from spnet_d2.checkpoint.transfer import (
    TransferError,
    check_served,
    plan_serving,
    plan_start,
    split_parts,
)
from spnet_d2.checkpoint.untrained import UntrainedModelError
from spnet_d2.engine import Checkpointer
from tests.modeling.tiny import tiny_config, tiny_input, tiny_model

QC = ["MODEL.SPNET.PATHWAY", "QC"]
SEPARATE = ["MODEL.SPNET.SEPARATE_HEADS", True]
TWIN = ["MODEL.SPNET.MOMENTUM_TWIN.ENABLED", True, "MODEL.SPNET.REID.LOSS", "momentum_queue"]


def cascades(count):
    return ["MODEL.SPNET.NUM_CASCADES", count]


def reid_dim(size):
    return ["MODEL.SPNET.REID_DIM", size]


@lru_cache
def new(*overrides):
    """A new model; not to be changed."""
    return tiny_model(*overrides)


@lru_cache
def trained(*overrides):
    """Tensors of a model, none of which is what a new model has; not to be changed."""
    model = tiny_model(*overrides, seed=1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.01 + 0.001)
            else:
                tensor.add_(3)
    return model.state_dict()


@pytest.fixture
def file(tmp_path):
    """Write a checkpoint of :func:`trained` and return its path."""

    def write(*overrides):
        path = str(tmp_path / "source.pth")
        torch.save({"model": trained(*overrides)}, path)
        return path

    return write


def started(path, *overrides, **kwargs):
    """A model after starting from a checkpoint, as training does."""
    model = tiny_model(*overrides)
    Checkpointer(model, **kwargs).resume_or_load(path, resume=False)
    return model


def label(part):
    return part.kind if part.stage is None else f"{part.kind} {part.stage}"


# Which parts are new: the table of the authors' missing keys, for every kind of fine-tuning.
@pytest.mark.parametrize(
    ("source", "target", "cascade", "expected"),
    [
        (QC, [], "PT-Rep", {"bridge 0"}),
        ([], [], "PT-Rep", set()),
        (
            QC,
            SEPARATE,
            "PT-Rep",
            {"bridge 0", "re-id projectors", "localisation projection 1"},
        ),
        (QC, cascades(2), "PT-Rep", {"bridge 0", "bridge 1", "bridge 2"}),
        (
            QC,
            [*cascades(2), *SEPARATE, *reid_dim(24)],
            "PT-Rep",
            {
                "bridge 0",
                "bridge 1",
                "bridge 2",
                "re-id projectors",
                "localisation projection 1",
                "localisation projection 2",
            },
        ),
        (
            QC,
            [*cascades(2), *SEPARATE, *reid_dim(24)],
            "PT",
            {
                "bridge 0",
                "bridge 1",
                "bridge 2",
                "re-id projectors",
                "localisation projection 1",
                "localisation projection 2",
                "box head 1",
                "box head 2",
                "localisation stage copy 2",
            },
        ),
        ([], cascades(2), "PT-Rep", set()),
        ([], cascades(2), "PT", {"bridge 1", "bridge 2", "box head 1", "box head 2"}),
        ([*cascades(1), *SEPARATE], [*cascades(3), *SEPARATE], "PT-Rep", set()),
        (SEPARATE, [*SEPARATE, *reid_dim(24)], "PT-Rep", {"re-id projectors"}),
        ([*cascades(2), *SEPARATE], [], "PT-Rep", set()),
        ([*cascades(2), *SEPARATE], QC, "PT-Rep", set()),
        ([], ["MODEL.SPNET.CLS_LOGITS", "mlp"], "PT-Rep", {"class head 0"}),
        ([], ["MODEL.SPNET.REID.NUM_IDENTITIES", 9], "PT-Rep", set()),
        (TWIN, [], "PT-Rep", set()),
    ],
)
def test_what_is_new_after_starting_from_other_weights(source, target, cascade, expected):
    state = new(*target).state_dict()
    plan = plan_start(trained(*source), state, cascade)
    parts = split_parts(state)
    untouched = {label(p) for p, names in parts.items() if not plan.sources.keys() & names.values()}
    # A run fills its own memory.
    assert untouched == expected | {"re-id memory"}
    whole = {label(p) for p, names in parts.items() if plan.sources.keys() >= set(names.values())}
    assert untouched | whole == set(map(label, parts))


def test_copies_and_replicas_are_the_checkpoints(file):
    target = (*cascades(2), *SEPARATE, *reid_dim(24))
    have, got = trained(), started(file(), *target).state_dict()
    for name, tensor in have.items():
        if not name.startswith(("roi_heads.reid_loss.", "roi_heads.reid_embedder.projectors.")):
            assert torch.equal(got[name], tensor), name
    for i in range(2):
        for ours, theirs in (
            (f"roi_heads.swap_paths.{i}.", "proposal_generator.swap_path."),
            (f"roi_heads.box_detectors.{i}.", "proposal_generator.box_detector."),
            (f"roi_heads.loc_embedders.{i}.copy.", "roi_heads.reid_embedder.copy."),
        ):
            names = [n for n in got if n.startswith(ours)]
            assert names
            for name in names:
                assert torch.equal(got[name], have[theirs + name.removeprefix(ours)]), name
    for name, tensor in new(*target).state_dict().items():
        if ".projector" in name or ".projection" in name or ".reid_loss." in name:
            assert torch.equal(got[name], tensor), name


def test_rounds_of_the_checkpoint_stay_themselves():
    plan = plan_start(trained(*cascades(1)), new(*cascades(2)).state_dict())
    weight = "roi_heads.box_detectors.{}.box_head.1.weight".format
    assert plan.sources[weight(0)] == weight(0)
    assert plan.sources[weight(1)] == "proposal_generator.box_detector.box_head.1.weight"


@pytest.mark.parametrize("source", [[], TWIN], ids=["without twin", "with twin"])
def test_twin_starts_as_the_student(source, file):
    model = started(file(*source), *TWIN)
    for twin, student in (
        (model.twin.backbone, model.backbone),
        (model.twin.reid_embedder, model.roi_heads.reid_embedder),
    ):
        for name, tensor in student.state_dict().items():
            assert torch.equal(twin.state_dict()[name], tensor), name
    assert (model.roi_heads.reid_loss.labels == -1).all()


def test_twin_of_new_projectors_is_the_student_too():
    target = new(*TWIN, *SEPARATE, *reid_dim(24))
    plan = plan_start(trained(*TWIN), target.state_dict())
    rows = [(r.action, r.tensors) for r in plan.rows if r.part.kind == "momentum encoder"]
    assert rows[1:] == [("initialised", 10), ("dropped", 145)] and rows[0][0] == "replicated"
    student = {n for n in plan.sources if n.startswith(("backbone.", "roi_heads.reid_embedder."))}
    assert rows[0][1] == len(student)


def test_table_groups_parts():
    target = new(*cascades(2), *SEPARATE, *reid_dim(24)).state_dict()
    table = plan_start(trained(*QC, *TWIN), target).table()
    lines = [" ".join(line.split()) for line in table.splitlines()]
    for line in (
        "FPN 16 copied",
        "bridge 0, 1, 2 6 initialised the checkpoint is query-centric and has no bridge",
        "box head 1, 2 20 replicated from box head 0 PT-Rep: the checkpoint lacks this stage",
        "re-id memory 3 initialised every run fills its own",
        "momentum encoder 145 dropped belongs to the run that wrote it",
    ):
        assert line in lines, table
    assert len(lines) < 20, table


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["MODEL.SPNET.BACKBONE.NAME", "test_convnext2"], r"trunk\.\S+: expected \(.*found \("),
        (
            ["MODEL.SPNET.BACKBONE.NAME", "test_efficientnet"],
            r"backbone.trunk\.\S+: expected \(.*none",
        ),
        (
            ["MODEL.SPNET.EMBED_DIM", 8, *reid_dim(8)],
            r"anchor_embedder.conv.weight: expected \(72, .*found \(144, ",
        ),
    ],
)
def test_another_architecture_is_an_error_and_loads_nothing(overrides, message, file):
    path, model = file(), new(*overrides)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    checkpointer = Checkpointer(model)
    for load in (checkpointer.start_from, checkpointer.load_to_serve, checkpointer.load):
        with pytest.raises(TransferError, match=f"source.pth.*{message}"):
            load(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_part_of_a_checkpoint_is_missing():
    state = dict(trained(*cascades(1)))
    del state["roi_heads.box_detectors.0.box_head.1.bias"]
    for plan in (plan_start, plan_serving):
        with pytest.raises(TransferError, match="box_detectors.0.box_head.1.bias: expected"):
            plan(state, new(*cascades(1)).state_dict())


def test_unknown_tensors_are_not_left_out_in_silence():
    state = {**trained(), "mask_head.weight": torch.zeros(3)}
    for plan in (plan_start, plan_serving):
        with pytest.raises(TransferError, match="mask_head.weight: found"):
            plan(state, new().state_dict())


@pytest.mark.parametrize("content", [{"conv1.weight": torch.zeros(3)}, {"state_dict": {}}])
def test_no_spnet_checkpoint(content, tmp_path):
    torch.save(content, tmp_path / "resnet.pth")
    checkpointer = Checkpointer(new())
    for load in (checkpointer.start_from, checkpointer.load_to_serve):
        with pytest.raises(TransferError, match="resnet.pth.*no SPNet checkpoint.*PRETRAINED"):
            load(str(tmp_path / "resnet.pth"))


@pytest.mark.parametrize("content", [torch.zeros(3), [1], None, 5, "model"])
def test_what_holds_no_weights_by_name(content, tmp_path):
    torch.save(content, tmp_path / "odd.pth")
    with pytest.raises(TransferError, match=r"odd\.pth: This is no SPNet checkpoint: expected"):
        Checkpointer(new()).load_to_serve(str(tmp_path / "odd.pth"))


def test_unknown_cascade():
    state = new().state_dict()
    with pytest.raises(ValueError, match=r"cascade is 'rep', expected one of"):
        plan_start(state, state, "rep")


def test_exact_loading_takes_nothing_else(file):
    path = file(*cascades(1))
    with pytest.raises(TransferError, match="one of this model.*the model has none.*MODEL.WEIGHTS"):
        Checkpointer(new()).load(path)
    with pytest.raises(TransferError, match="found none"):
        Checkpointer(new(*cascades(2))).load(path)


# What serves, and what is missing.


@pytest.mark.parametrize(
    ("source", "target", "missing"),
    [
        ([], [], None),
        ([], QC, None),
        (TWIN, [], None),
        ([], ["MODEL.SPNET.REID.NUM_IDENTITIES", -1], None),
        ([], ["MODEL.SPNET.REID.QUEUE_SIZE", 3], None),
        ([], TWIN, None),
        ([], ["MODEL.SPNET.ANCHOR_LOGITS", "batch_norm"], None),
        ([], ["MODEL.SPNET.TEST_PATHWAY", "QC"], None),
        # The localisation head of separate heads does nothing without stages.
        (QC, [], "swap_path.bridge"),
        (QC, ["MODEL.SPNET.TEST_PATHWAY", "QC"], None),
        (QC, cascades(1), "swap_path.bridge"),
        ([], cascades(1), "roi_heads.*box_detectors.0|roi_heads.swap_paths.0"),
        ([], [*SEPARATE, *reid_dim(24)], "reid_embedder.projectors.0.0.weight"),
        ([], [*SEPARATE, "MODEL.SPNET.TEST_PATHWAY", "QC"], "loc_embedders.0.copy"),
        ([], ["MODEL.SPNET.CLS_LOGITS", "mlp"], "box_detector.class_head"),
    ],
)
def test_serving_refuses_what_was_never_trained(source, target, missing):
    model = new(*target)
    plan = plan_serving(trained(*source), model.state_dict())
    if missing is None:
        check_served(plan, model)
    else:
        with pytest.raises(UntrainedModelError, match=f"does not fit the config.*{missing}"):
            check_served(plan, model)


def test_refused_weights_can_be_insisted_on(file):
    path, model = file(), tiny_model(*cascades(1)).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(UntrainedModelError, match="source.pth: .*box_detectors.0"):
        Checkpointer(model).load_to_serve(path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    Checkpointer(model).load_to_serve(path, allow_untrained=True)
    model([tiny_input(0)])


def test_serving_keeps_everything(file):
    model = tiny_model("MODEL.SPNET.REID.NUM_IDENTITIES", -1)
    Checkpointer(model).load_to_serve(file())
    for name, tensor in trained().items():
        assert torch.equal(model.state_dict()[name], tensor), name


def test_no_weights_to_serve(tmp_path):
    checkpointer = Checkpointer(tiny_model(), str(tmp_path))
    with pytest.raises(UntrainedModelError, match="MODEL.WEIGHTS is empty, so"):
        checkpointer.load_to_serve("")
    with pytest.raises(UntrainedModelError, match=f"{tmp_path} has no checkpoint"):
        checkpointer.load_to_serve("", resume=True)
    checkpointer.load_to_serve("", allow_untrained=True)
    checkpointer.save("model")
    checkpointer.load_to_serve("", resume=True)


def test_parts_left_out_are_named(file, caplog):
    path = file(*cascades(1))
    Checkpointer(tiny_model()).load_to_serve(path)
    assert "has no box head 1: not loaded" in caplog.text


# Whoever loads: Detectron2's own predictor.


def image():
    return tiny_input(0)["image"].permute(1, 2, 0).numpy()


def default_predictor(path, *overrides):
    cfg = tiny_config(*overrides)
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    cfg.MODEL.WEIGHTS = path
    return DefaultPredictor(cfg)


def test_default_predictor_refuses_a_half_loaded_model(file):
    path = file()
    assert "instances" in default_predictor(path)(image())
    half = default_predictor(path, *cascades(1))
    with pytest.raises(UntrainedModelError, match="does not fit the config: it lacks 1"):
        half(image())
    # Training it is what has to be done, and lifts that.
    half.model.train()
    half.model([tiny_input(0, (20, 20, 60, 80))])
    half.model.eval()
    half(image())


def test_models_built_without_a_checkpoint_are_not_refused():
    tiny_model().eval()([tiny_input(0)])
    assert "instances" in default_predictor("")(image())


def test_started_model_has_to_be_trained_before_it_detects(file):
    model = started(file(*QC))
    with pytest.raises(UntrainedModelError, match="bridge"):
        model.eval()([tiny_input(0)])
    bias = {"proposal_generator.swap_path.bridge.bias": torch.zeros(16)}
    model.load_state_dict(bias, strict=False)
    assert model.untrained == ("proposal_generator.swap_path.bridge.weight",)


FILTER = ["MODEL.SPNET.GFN.ENABLED", True]


def test_a_gallery_filter_starts_as_the_checkpoints_re_id_branch(file):
    """As it does without a checkpoint; one that is there is taken as it is."""
    model = tiny_model(*FILTER)
    Checkpointer(model).start_from(file())
    state, source = model.state_dict(), trained()
    for name in source:
        if name.startswith("roi_heads.reid_embedder."):
            scene = name.replace("roi_heads.reid_embedder", "gallery_filter.embedder")
            assert torch.equal(state[scene], source[name]), scene
    assert torch.equal(state["gallery_filter.fuser.weight"], torch.ones(16))
    Checkpointer(model).start_from(file(*FILTER))
    own = {k: v for k, v in trained(*FILTER).items() if k.startswith("gallery_filter.")}
    assert own and all(torch.equal(model.state_dict()[k], v) for k, v in own.items())


def test_projectors_of_scenes_start_anew_where_those_of_people_do(file):
    model = tiny_model(*FILTER, *SEPARATE)
    before = model.state_dict()["gallery_filter.embedder.projectors.0.0.weight"].clone()
    Checkpointer(model).start_from(file())
    after = model.state_dict()["gallery_filter.embedder.projectors.0.0.weight"]
    assert torch.equal(before, after)


def test_serving_a_gallery_filter(file):
    with pytest.raises(UntrainedModelError, match="gallery_filter"):
        Checkpointer(tiny_model(*FILTER)).load_to_serve(file())
    Checkpointer(tiny_model(*FILTER)).load_to_serve(file(*FILTER))
    # Without it, people are found as ever.
    Checkpointer(tiny_model()).load_to_serve(file(*FILTER))
