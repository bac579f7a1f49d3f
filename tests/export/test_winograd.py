"""Convolutions of exported graphs in tiles: the same numbers, fewer multiplications."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from spnet_d2.export import winograd
from spnet_d2.export.description import Description, ExportedModelError
from spnet_d2.export.predictor import OnnxPredictor

from .agreement import assert_same_people, people, scenes
from .test_predictor import SIZES

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
WIDE, THIN = 128, 16


def convolution(name: str, x: str, weight: str, **attributes):
    pads = {"pads": [1, 1, 1, 1], **attributes}
    return onnx.helper.make_node("Conv", [x, weight, "bias"], [name], name=name, **pads)


@pytest.fixture
def file(tmp_path):
    """Two convolutions that share a weight, and three that stay as they are."""
    rng = np.random.default_rng(0)
    weights = {
        "wide": rng.normal(size=(WIDE + 8, WIDE, 3, 3)) / 30,
        "thin": rng.normal(size=(WIDE + 8, THIN, 3, 3)) / 10,
        "bias": rng.normal(size=WIDE + 8),
    }
    nodes = [
        convolution("first", "x", "wide"),
        convolution("second", "x_small", "wide"),
        convolution("stride", "x", "wide", strides=[2, 2]),
        convolution("unpadded", "x", "wide", pads=[0, 0, 0, 0]),
        convolution("few", "x_thin", "thin"),
    ]
    shape = ["n", WIDE, "h", "w"]
    inputs = {"x": shape, "x_small": ["n", WIDE, "i", "j"], "x_thin": ["n", THIN, "h", "w"]}
    make = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "five",
        [make(name, onnx.TensorProto.FLOAT, dims) for name, dims in inputs.items()],
        [make(node.name, onnx.TensorProto.FLOAT, [None] * 4) for node in nodes],
        [onnx.numpy_helper.from_array(w.astype(np.float32), n) for n, w in weights.items()],
    )
    opsets = [onnx.helper.make_opsetid("", 20)]
    file = tmp_path / "five.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10), file)
    return file


def run(file, inputs):
    session = onnxruntime.InferenceSession(str(file))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


@pytest.mark.parametrize("size", [(8, 12), (7, 9), (1, 1), (5, 34), (30, 3)])
def test_results_are_the_same_at_any_size(file, size):
    rng = np.random.default_rng(1)
    inputs = {
        name: rng.normal(size=(2, channels, *sides)).astype(np.float32)
        for name, channels, sides in (
            ("x", WIDE, (size[0] + 3, size[1] + 3)),
            ("x_small", WIDE, size),
            ("x_thin", THIN, (size[0] + 3, size[1] + 3)),
        )
    }
    expected = run(file, inputs)
    assert winograd.use_winograd(file) == 2
    found = run(file, inputs)
    assert found["first"].shape == (2, WIDE + 8, size[0] + 3, size[1] + 3)
    for name in ("first", "second"):
        np.testing.assert_allclose(found[name], expected[name], rtol=0, atol=2e-5)
        assert np.abs(found[name] - expected[name]).max() > 0
    for name in ("stride", "unpadded", "few"):
        np.testing.assert_array_equal(found[name], expected[name])


def test_filters_are_shared_and_take_no_more_place(file):
    before = file.stat().st_size
    model = onnx.load(file)
    del model.graph.node[2:], model.graph.output[2:]
    onnx.save(model, file)
    assert winograd.use_winograd(file) == 2
    model = onnx.load(file)
    onnx.checker.check_model(model, full_check=True)
    assert file.stat().st_size < before + 4 * 36 * 36 * WIDE
    assert sum(w.name.endswith("/squares") for w in model.graph.initializer) == 1
    # What is done already stays as it is.
    assert winograd.use_winograd(file) == 0


def test_bfloat16_is_refused(detecting_everyone, tmp_path):
    _, folder = detecting_everyone
    described = replace(Description.load(folder), winograd=True)
    described.save(tmp_path)
    with pytest.raises(ExportedModelError, match="Export the model again with --device other"):
        OnnxPredictor(tmp_path, "openvino-bfloat16")


def test_a_model_finds_the_same_people(detecting_everyone, tmp_path, monkeypatch):
    predictor, folder = detecting_everyone
    shutil.copytree(folder, tmp_path / "tiles")
    monkeypatch.setattr(winograd, "_MIN_CHANNELS", 16)
    assert winograd.use_winograd(tmp_path / "tiles" / "detector.onnx") > 5
    other = OnnxPredictor(tmp_path / "tiles")
    for image in scenes(SIZES):
        expected = people(predictor, image)
        assert len(expected) > 1
        assert_same_people(people(other, image), expected)
