"""Which parameters get no gradient, known before training, against what a step's graph says."""

import pytest
import torch

from spnet_d2.engine.distribute import without_gradient
from spnet_d2.modeling import SPNetROIHeads
from tests.engine.test_processes import QUEUE
from tests.modeling.tiny import tiny_input, tiny_model

BOXES = [(10, 12, 44, 80), (60, 5, 100, 90)]
CROWDS = {"people": [BOXES, BOXES[:1]], "some without": [BOXES, []], "nobody": [[], []]}
QC = ("MODEL.SPNET.PATHWAY", "QC", "MODEL.SPNET.QC.MATCH_MODE", "all", *QUEUE)
STAGES = ("MODEL.SPNET.NUM_CASCADES",)
SEPARATE = ("MODEL.SPNET.SEPARATE_HEADS", True)
# With the number of tensors that nothing trains, from outside of the rule.
MODELS = {
    "OC": ((*STAGES, 0), 0),
    "OC, stages": ((*STAGES, 2, *SEPARATE), 0),
    "OC, idle embedder": ((*STAGES, 0, *SEPARATE), None),
    "OC, class head by an MLP": ((*STAGES, 1, "MODEL.SPNET.CLS_LOGITS", "mlp"), None),
    "OC, norms of logits": (
        (*STAGES, 0, "MODEL.SPNET.CLS_LOGITS", "batch_norm"),
        2,
    ),
    "OC, frozen trunk": ((*STAGES, 1, "MODEL.SPNET.BACKBONE.FREEZE", True), 0),
    "OC, ResNet": ((*STAGES, 1, "MODEL.SPNET.BACKBONE.NAME", "test_resnet"), 0),
    "OC, re-id of ground truth": ((*STAGES, 0, "MODEL.SPNET.REID.GT_ONLY", True), 0),
    "OC, NT-Xent": ((*STAGES, 0, "MODEL.SPNET.REID.LOSS", "nt_xent"), 0),
    "re-id alone": ((*STAGES, 1, *SEPARATE, "MODEL.SPNET.REID.ONLY", True), None),
    "QC": ((*STAGES, 0, *QC), 0),
    "QC, stages": ((*STAGES, 2, *SEPARATE, *QC), 0),
    "QC, separate head": ((*STAGES, 0, *SEPARATE, *QC), 0),
    "QC, idle bridges": ((*STAGES, 1, "MODEL.SPNET.TEST_PATHWAY", "OC", *QC), 4),
}


@pytest.mark.parametrize("crowd", CROWDS)
@pytest.mark.parametrize("name", MODELS)
def test_parameters_without_gradient_are_those_of_every_batch(name, crowd):
    options, number = MODELS[name]
    model = tiny_model(*options).train()
    modes = [module.training for module in model.modules()]
    state = {key: x.clone() for key, x in model.state_dict().items()}
    found = {id(p) for p in without_gradient(model)}
    # It is only looked at.
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(x, state[key]) for key, x in model.state_dict().items())
    losses = model([tiny_input(k, *boxes) for k, boxes in enumerate(CROWDS[crowd])])
    sum(losses.values()).backward()
    idle = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
    assert {n for n, p in model.named_parameters() if id(p) in found} == idle
    assert len(idle) > 0 if number is None else len(idle) == number, idle


class OtherHeads(SPNetROIHeads):
    pass


def test_classes_of_others_are_searched_step_by_step():
    model = tiny_model()
    model.roi_heads.__class__ = OtherHeads
    assert without_gradient(model) is None
    assert without_gradient(torch.nn.Linear(2, 2)) is None
