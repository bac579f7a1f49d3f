"""tools/convert_llnl_checkpoint.py: every family of the authors' trunks, both files, refusals."""

from argparse import Namespace
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from spnet_d2.checkpoint.llnl import build_from_llnl
from spnet_d2.config import add_spnet_config
from spnet_d2.engine import Checkpointer
from tests.fixtures.llnl_shapes import llnl_shapes
from tests.fixtures.reference import reference_shapes
from tests.fixtures.scripts import load_script


@pytest.fixture(scope="module")
def tool():
    return load_script("tools/convert_llnl_checkpoint.py")


@pytest.mark.parametrize(
    ("trunk", "name", "tensors", "parameters"),
    [
        ("convnext_tiny", "convnext_tiny", None, None),
        ("convnext_small", "convnext_small", None, None),
        # Sizes of the published models.
        ("convnext_base", "convnext_base", 501, 192.37),
        ("resnet50", "resnet50", 566, 143.24),
        ("swin_t", "swin_tiny_patch4_window7_224", None, None),
        ("swin_s", "swin_small_patch4_window7_224", None, None),
        ("swin_b", "swin_base_patch4_window7_224", None, None),
    ],
)
def test_every_trunk_of_the_authors_finds_its_place(trunk, name, tensors, parameters):
    # SPNet-L: two stages, separate heads, re-id size 2048.
    shapes = llnl_shapes(trunk, 2, True, 2048)
    state = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
    with torch.device("meta"):
        model = build_from_llnl(state, overrides=["MODEL.DEVICE", "meta"])
    names = {k for k in shapes if not k.endswith("relative_position_index")}
    assert len(model.state_dict()) == len(names) + 1  # the queue's position
    if tensors:
        assert len(shapes) == tensors
        found = sum(p.numel() for p in model.parameters()) / 1e6
        assert found == pytest.approx(parameters, abs=0.01)
    assert model.roi_heads.num_cascades == 2 and len(model.roi_heads.loc_embedders) == 2


def test_learning_without_forgetting_finds_its_place():
    """Pre-training with it: a classifier, and a teacher with an FPN and a classifier."""
    shapes = reference_shapes(memory="cq")
    trunk = {k: v for k, v in shapes.items() if k.startswith("backbone.")}
    for i, shape in ((0, (768,)), (2, (1000, 768))):
        trunk |= {f"backbone.classifier.{i}.weight": shape}
        trunk |= {f"backbone.classifier.{i}.bias": shape[:1]}
    for prefix in ("backbone.", "moco_backbone.", "lwf_backbone."):
        shapes |= {k.replace("backbone.", prefix, 1): v for k, v in trunk.items()}
    state = {k: torch.empty(shape, device="meta") for k, shape in shapes.items()}
    with torch.device("meta"):
        model = build_from_llnl(state, overrides=["MODEL.DEVICE", "meta"])
    assert model.lwf.classifier.head.fc.weight.shape == (1000, 768)
    left_out = [k for k in shapes if k.startswith(("lwf_backbone.fpn.", "moco_backbone.class"))]
    assert len(model.state_dict()) == len(shapes) - len(left_out) + 1  # the queue's position


@pytest.fixture(scope="module")
def lightning(tmp_path_factory):
    """
    A Lightning checkpoint, hyper-parameters beside the tensors.

    Each tensor is one random number, so that the file is small.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in reference_shapes().items():
        if name.endswith("tracked"):
            state[f"model.{name}"] = torch.tensor(7)
        else:
            state[f"model.{name}"] = torch.randn(1, generator=generator).expand(shape)
    path = tmp_path_factory.mktemp("lightning") / "epoch=29.ckpt"
    hyper_parameters = Namespace(lr=1e-4, folder=Path("logs"))
    torch.save({"state_dict": state, "epoch": 29, "hyper_parameters": hyper_parameters}, path)
    return path, {k.removeprefix("model."): v for k, v in state.items()}


def run(tool, source, output, *extra):
    return tool.main(["--input", str(source), "--output", str(output), *map(str, extra)])


def test_written_files_make_the_same_model(tool, lightning, tmp_path, capsys):
    path, state = lightning
    output = tmp_path / "new" / "model.pth"
    assert run(tool, path, output) == 0
    text = capsys.readouterr().out
    assert "convnext_tiny" in text and "memory: lut" in text and "(50, 128)" in text
    assert {p.name for p in output.parent.iterdir()} == {"model.pth", "model.yaml"}
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.merge_from_file(str(output.with_suffix(".yaml")))
    assert cfg.MODEL.SPNET.REID.NUM_IDENTITIES == -1 and cfg.MODEL.SPNET.PATHWAY == "OC"
    cfg.MODEL.DEVICE = "cpu"
    # As `tools/train_net.py --eval-only` does.
    model = build_model(cfg)
    Checkpointer(model).load_to_serve(str(output))
    expected = build_from_llnl(state).state_dict()
    found = model.state_dict()
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert torch.equal(found["roi_heads.reid_loss.lut"], state["head.reid_loss.lut"])
    # The authors' file itself serves and starts runs, too.
    with torch.no_grad():
        model.roi_heads.reid_loss.lut.zero_()
    Checkpointer(model).load_to_serve(str(path))
    assert torch.equal(model.state_dict()["roi_heads.reid_loss.lut"], state["head.reid_loss.lut"])
    Checkpointer(model).start_from(str(path))


def test_settings_and_config_file(tool, lightning, tmp_path, capsys):
    path, _ = lightning
    config = tmp_path / "given.yaml"
    config.write_text(
        "MODEL:\n  SPNET:\n    BACKBONE:\n      NAME: convnext_tiny\nTEST:\n  EVAL_PERIOD: 7\n"
    )
    output = tmp_path / "model.pth"
    options = ("--config-file", config, "MODEL.SPNET.POSITIVE_NORM", True)
    assert run(tool, path, output, *options) == 0
    text = output.with_suffix(".yaml").read_text()
    assert "EVAL_PERIOD: 7" in text and "POSITIVE_NORM: true" in text


def test_query_centric_checkpoint(tool, lightning, tmp_path, capsys):
    _, state = lightning
    zero = {k: torch.zeros_like(t) if "bridge_layer" in k else t for k, t in state.items()}
    torch.save(zero, tmp_path / "bare.ckpt")
    assert run(tool, tmp_path / "bare.ckpt", tmp_path / "model.pth") == 0
    assert "PATHWAY is QC" in capsys.readouterr().out
    assert "PATHWAY: QC" in (tmp_path / "model.yaml").read_text()


def test_refusals(tool, lightning, tmp_path, capsys):
    _, state = lightning
    output = tmp_path / "model.pth"

    def refused(content, message, *extra):
        torch.save(content, tmp_path / "x.ckpt")
        assert run(tool, tmp_path / "x.ckpt", output, *extra) == 1
        text = capsys.readouterr().err
        assert "x.ckpt" in text and message in text, text
        assert not output.exists() and not output.with_suffix(".yaml").exists()

    gfn = {**state, "head.gfn.fuser.norm.norm.weight": torch.zeros(3)}
    refused(gfn, "not mapped, the first: head.gfn.fuser.norm.norm.weight")
    refused(state, "--leave-out head.gfn.: no tensor's name", "--leave-out", "head.gfn.")
    missing = {k: v for k, v in state.items() if k != "backbone.body.5.3.block.2.bias"}
    refused(missing, "1 missing, the first: backbone.trunk.stages_2.blocks.3.norm.bias")
    refused({"conv1.weight": torch.zeros(3)}, "no checkpoint of the authors'")
    vit = {k.replace("backbone.body.", "backbone.vit."): v for k, v in state.items()}
    refused(vit, "plain vision transformer")
    refused({"state_dict": state, "hyper_parameters": Decimal(3)}, "decimal.Decimal")
    refused(state, "No config file at", "--config-file", tmp_path / "nowhere.yaml")
    refused(state, "NO_SUCH_KEY", "MODEL.NO_SUCH_KEY", 1)
    (tmp_path / "x.ckpt").unlink()
    assert run(tool, tmp_path / "x.ckpt", output) == 1
    assert "No checkpoint at" in capsys.readouterr().err

    torch.save(gfn, tmp_path / "x.ckpt")
    assert run(tool, tmp_path / "x.ckpt", output, "--leave-out", "head.gfn.") == 0
    assert output.exists()


def test_wrong_command_lines(tool, capsys):
    for output, extra, message in (
        ("model.pt", (), "must end in .pth"),
        ("model.pth", ("MODEL.DEVICE",), "KEY VALUE pairs"),
    ):
        with pytest.raises(SystemExit):
            run(tool, "x.ckpt", output, *extra)
        assert message in capsys.readouterr().err
