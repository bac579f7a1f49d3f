"""The modules that are exported compute what the model computes, of every structure there is.

In PyTorch, which takes milliseconds: what ONNX makes of them is for the other tests.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model

from spnet_d2.experiments import load_index
from spnet_d2.export import predictor as predictors
from spnet_d2.export.convert import Writer, describe
from tests.fixtures import thin_trunks

from .agreement import assert_same_direction, assert_same_people, detecting, people, scenes

INDEX = load_index(Path(__file__).resolve().parents[2])
# Thin trunks of the families that the paper's trunks are of.
FAMILIES = {
    "convnext": thin_trunks.CONVNEXT,
    "resnet50": "resnet18",
    "solider_swin": thin_trunks.SOLIDER,
}


def structure(cfg) -> tuple:
    """What decides how graphs are made."""
    options = cfg.MODEL.SPNET
    family = next(f for f in FAMILIES if options.BACKBONE.NAME.startswith(f))
    return (
        family,
        options.PATHWAY,
        options.TEST_PATHWAY or options.PATHWAY,
        options.NUM_CASCADES,
        options.SEPARATE_HEADS,
        options.CLS_LOGITS,
        options.POSITIVE_NORM,
    )


def structures() -> dict[str, str]:
    """One config of the paper for every structure, by a name."""
    first: dict = {}
    for experiment in INDEX:
        first.setdefault(structure(experiment.cfg), experiment)
    return {"-".join(map(str, key)): experiment for key, experiment in first.items()}


STRUCTURES = structures()


class Eager:
    """Graphs as modules, in the place of those that files are opened as."""

    def __init__(self, model, exact_8bit: bool):
        self.graphs: dict = {}
        writer = Writer(model, self._take)
        writer.detector(torch.float32 if exact_8bit else torch.uint8)
        self.localisers = writer.embedders()
        self.stages = writer.stages(self.localisers)

    def _take(self, name, graph, inputs, free, outputs):
        def run(**arrays):
            assert list(arrays) == list(inputs)
            for key, array in arrays.items():
                assert torch.from_numpy(array).dtype == inputs[key].dtype, key
                fixed = set(range(array.ndim)) - set(free[key])
                assert all(array.shape[i] == inputs[key].shape[i] for i in fixed), key
            with torch.no_grad():
                found = graph.eval()(*map(torch.from_numpy, arrays.values()))
            found = found if isinstance(found, tuple) else (found,)
            return {key: x.numpy() for key, x in zip(outputs, found, strict=True)}

        self.graphs[name] = run


@pytest.mark.parametrize("name", STRUCTURES)
def test_every_config_of_the_paper_has_graphs_that_agree(name, tmp_path, monkeypatch):
    cfg = STRUCTURES[name].cfg.clone()
    cfg.defrost()
    options = cfg.MODEL.SPNET
    options.BACKBONE.NAME = FAMILIES[structure(cfg)[0]]
    options.BACKBONE.PRETRAINED, cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "", "cpu", ""
    options.EMBED_DIM, options.REID_DIM = 16, 12 if options.SEPARATE_HEADS else 16
    options.REID.NUM_IDENTITIES, options.REID.QUEUE_SIZE = 5, 8
    options.MOMENTUM_TWIN.ENABLED = options.LWF.ENABLED = False
    options.TEST.PRECISION = "float32"
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 96, 160
    with thin_trunks.known_trunks():
        predictor = detecting(build_model(cfg).eval(), cfg)
    eager = Eager(predictor.model, cfg.INPUT.EXACT_8BIT)
    describe(predictor, cfg, eager.localisers, eager.stages, "none").save(tmp_path)
    monkeypatch.setattr(predictors, "open_graph", lambda file, _: eager.graphs[file.name])
    other = predictors.OnnxPredictor(tmp_path)
    for image in scenes([(90, 140), (60, 50)]):
        expected = people(predictor, image)
        assert_same_people(people(other, image), expected)
        assert len(expected) > 1
    boxes = np.array([[3, 4, 30, 50], [0, 0, 50, 60]])
    assert_same_direction(other.embed(image, boxes), predictor.embed(image, boxes))


def test_a_small_image_has_fewer_anchors_than_are_asked_for():
    from spnet_d2.export.graphs import NOBODY, Detector, Pyramid
    from tests.modeling.tiny import tiny_model

    model = tiny_model().eval()
    graph = Detector(Pyramid(model, model.backbone), model.proposal_generator)
    with torch.no_grad():
        _, boxes, scores = graph(torch.zeros(1, 3, 20, 30, dtype=torch.uint8))
    there = scores[0] > NOBODY
    # Maps of 4 x 4, 2 x 2 and three times 1 cell.
    assert there.sum() == 9 * (16 + 4 + 3) and boxes.shape == (1, 300, 4)
    assert (scores[0][~there] == NOBODY).all()
