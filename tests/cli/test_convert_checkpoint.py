"""tools/convert_checkpoint.py: both files, which then load, and refusals."""

from argparse import Namespace
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.checkpoint.llnl import build_from_llnl
from spnet_d2.cli.convert_checkpoint import main
from spnet_d2.config_reader import read_config
from spnet_d2.engine import Checkpointer
from tests.fixtures.reference import reference_shapes
from tests.fixtures.seqnet_shapes import seqnet_shapes, seqnext_shapes, with_aliases


def write_checkpoint(path, shapes):
    state = {
        name: torch.zeros(1).expand(shape) if shape else torch.zeros((), dtype=torch.int64)
        for name, shape in shapes.items()
    }
    torch.save({"model": state, "epoch": 19}, path)


def published_seqnext():
    return with_aliases(seqnext_shapes(gfn=True))


@pytest.mark.parametrize(
    ("project", "make", "kind"),
    [("seqnet", seqnet_shapes, "SeqNet"), ("seqnext", published_seqnext, "SeqNeXt")],
    ids=["seqnet", "seqnext"],
)
def test_what_it_writes_serves(project, make, kind, tmp_path, capsys):
    source, output = tmp_path / "epoch.pth", tmp_path / "model.pth"
    write_checkpoint(source, make())
    assert main(["--from", project, "--input", str(source), "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert kind in printed and ("gallery filter" in printed) == (project == "seqnext")
    cfg = read_config(output.with_suffix(".yaml"))
    cfg.defrost()
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert type(model).__name__ == kind
    Checkpointer(model).load_to_serve(str(output))


def test_what_does_not_fit_is_named(tmp_path, capsys):
    source, output = tmp_path / "epoch.pth", tmp_path / "model.pth"
    shapes = seqnext_shapes()
    files = ["--input", str(source), "--output", str(output)]
    write_checkpoint(source, shapes | {"gfn.fuser.gate.weight": (256,)})
    assert main(["--from", "seqnext", *files]) == 1
    assert "gfn.fuser.gate.weight" in capsys.readouterr().err
    assert main(["--from", "seqnet", *files]) == 1
    assert "a checkpoint of SeqNeXt" in capsys.readouterr().err
    assert main(["--from", "seqnext", *files[:4], "--leave-out", "gfn."]) == 0
    output.unlink()
    del shapes["roi_heads.score_predictor.bbox_pred.bias"]
    write_checkpoint(source, shapes)
    assert main(["--from", "seqnext", *files]) == 1
    assert "second_predictor.bbox_pred.bias" in capsys.readouterr().err
    assert not output.exists()


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


def run_llnl(source, output, *extra):
    files = ["--input", str(source), "--output", str(output)]
    return main(["--from", "llnl", *files, *map(str, extra)])


def test_written_files_make_the_same_model(lightning, tmp_path, capsys):
    path, state = lightning
    output = tmp_path / "new" / "model.pth"
    assert run_llnl(path, output) == 0
    text = capsys.readouterr().out
    assert "convnext_tiny" in text and "memory: lut" in text and "(50, 128)" in text
    assert {p.name for p in output.parent.iterdir()} == {"model.pth", "model.yaml"}
    cfg = read_config(output.with_suffix(".yaml"))
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


def test_settings_and_config_file(lightning, tmp_path, capsys):
    path, _ = lightning
    config = tmp_path / "given.yaml"
    config.write_text(
        "MODEL:\n  SPNET:\n    BACKBONE:\n      NAME: convnext_tiny\nTEST:\n  EVAL_PERIOD: 7\n"
    )
    output = tmp_path / "model.pth"
    options = ("--config-file", config, "MODEL.SPNET.POSITIVE_NORM", True)
    assert run_llnl(path, output, *options) == 0
    text = output.with_suffix(".yaml").read_text()
    assert "EVAL_PERIOD: 7" in text and "POSITIVE_NORM: true" in text


def test_query_centric_checkpoint(lightning, tmp_path, capsys):
    _, state = lightning
    zero = {k: torch.zeros_like(t) if "bridge_layer" in k else t for k, t in state.items()}
    torch.save(zero, tmp_path / "bare.ckpt")
    assert run_llnl(tmp_path / "bare.ckpt", tmp_path / "model.pth") == 0
    assert "PATHWAY is QC" in capsys.readouterr().out
    assert "PATHWAY: QC" in (tmp_path / "model.yaml").read_text()


def test_refusals(lightning, tmp_path, capsys):
    _, state = lightning
    output = tmp_path / "model.pth"

    def refused(content, message, *extra):
        torch.save(content, tmp_path / "x.ckpt")
        assert run_llnl(tmp_path / "x.ckpt", output, *extra) == 1
        text = capsys.readouterr().err
        assert "x.ckpt" in text and message in text, text
        assert not output.exists() and not output.with_suffix(".yaml").exists()

    gfn = {**state, "head.gfn.fuser.gate.weight": torch.zeros(3)}
    refused(
        gfn, "don't belong to a checkpoint of the authors, the first: head.gfn.fuser.gate.weight"
    )
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
    assert run_llnl(tmp_path / "x.ckpt", output) == 1
    assert "No checkpoint at" in capsys.readouterr().err

    torch.save(gfn, tmp_path / "x.ckpt")
    assert run_llnl(tmp_path / "x.ckpt", output, "--leave-out", "head.gfn.") == 0
    assert output.exists()


def test_wrong_command_lines(capsys):
    for project, output, extra, message in (
        ("llnl", "model.pt", (), "must end in .pth"),
        ("llnl", "model.pth", ("MODEL.DEVICE",), "KEY VALUE pairs"),
        ("seqnet", "model.pth", ("--config-file", "x.yaml"), "--config-file goes with --from llnl"),
    ):
        with pytest.raises(SystemExit):
            main(["--from", project, "--input", "x.ckpt", "--output", output, *extra])
        assert message in capsys.readouterr().err
