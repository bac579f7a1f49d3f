"""tools/convert_checkpoint.py: both files, which then load, and refusals."""

import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.cli.convert_checkpoint import main
from spnet_d2.config_reader import read_config
from spnet_d2.engine import Checkpointer
from tests.fixtures.seqnet_shapes import seqnet_shapes, seqnext_shapes


def write_checkpoint(path, shapes):
    state = {
        name: torch.zeros(1).expand(shape) if shape else torch.zeros((), dtype=torch.int64)
        for name, shape in shapes.items()
    }
    torch.save({"model": state, "epoch": 19}, path)


@pytest.mark.parametrize(
    ("project", "make", "kind"),
    [("seqnet", seqnet_shapes, "SeqNet"), ("seqnext", seqnext_shapes, "SeqNeXt")],
    ids=["seqnet", "seqnext"],
)
def test_what_it_writes_serves(project, make, kind, tmp_path, capsys):
    source, output = tmp_path / "epoch.pth", tmp_path / "model.pth"
    # SeqNeXt's second head has two names.
    shapes = make()
    for name, shape in list(shapes.items()):
        if project == "seqnext" and name.startswith("roi_heads.box_head."):
            shapes[name.replace("box_head", "reid_head")] = shape
    write_checkpoint(source, shapes)
    assert main(["--from", project, "--input", str(source), "--output", str(output)]) == 0
    assert kind in capsys.readouterr().out
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
    write_checkpoint(source, shapes | {"gfn.fuser.norm.norm.weight": (256,)})
    assert main(["--from", "seqnext", *files]) == 1
    assert "gfn.fuser.norm.norm.weight" in capsys.readouterr().err
    assert main(["--from", "seqnet", *files]) == 1
    assert "a checkpoint of SeqNeXt" in capsys.readouterr().err
    assert main(["--from", "seqnext", *files[:4], "--leave-out", "gfn."]) == 0
    output.unlink()
    del shapes["roi_heads.score_predictor.bbox_pred.bias"]
    write_checkpoint(source, shapes)
    assert main(["--from", "seqnext", *files]) == 1
    assert "second_predictor.bbox_pred.bias" in capsys.readouterr().err
    assert not output.exists()
