"""Inference on GPUs, in float32 and in half precision; what can be is run on the CPU as well."""

import pytest
import torch
from torch.nn.functional import cosine_similarity
from torch.testing import assert_close

from tests.cuda.devices import on_every_device
from tests.cuda.steps import BOX_A, BOX_B
from tests.modeling.tiny import tiny_input, tiny_model

FINDS = ("TEST.DETECTIONS_PER_IMAGE", 10)


def detect(device: str, precision: str, *settings, **extra) -> dict:
    model = tiny_model(
        "MODEL.DEVICE", device, "MODEL.SPNET.TEST.PRECISION", precision, *FINDS, *settings
    )
    with torch.no_grad():
        return model.eval()([tiny_input(0, BOX_A, BOX_B, **extra)])[0]


@on_every_device
def test_float32_is_the_cpu_s(device):
    expected, found = (detect(d, "float32") for d in ("cpu", device))
    assert len(found["instances"]) == len(expected["instances"]) > 0
    for name in ("scores", "reid_embeddings"):
        a, b = (x["instances"].get(name).cpu() for x in (found, expected))
        assert_close(a, b, rtol=1e-3, atol=1e-3)
    a, b = (x["gt_embeddings"]["reid"].cpu() for x in (found, expected))
    assert_close(a, b, rtol=1e-3, atol=1e-3)


@on_every_device
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_half_precision_finds_the_same_people(device, precision):
    exact, half = (detect(device, p) for p in ("float32", precision))
    people = half["instances"]
    assert len(people) > 0 and people.pred_boxes.tensor.dtype == torch.float32
    assert people.scores.isfinite().all() and people.reid_embeddings.isfinite().all()
    a, b = (x["gt_embeddings"]["reid"].float() for x in (half, exact))
    assert cosine_similarity(a, b).min() > 0.99


@on_every_device
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_images_in_which_nobody_is_found(device, precision):
    found = detect(device, precision, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 1.0)["instances"]
    assert len(found) == 0 and found.reid_embeddings.shape == (0, 16)


@on_every_device
@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("number", [0, 3])
def test_search_by_queries(device, precision, number):
    loc = torch.randn(number, 16, generator=torch.Generator().manual_seed(0))
    queries = {"reid": loc, "loc": loc}
    found = detect(device, precision, "MODEL.SPNET.TEST_PATHWAY", "QC", queries=queries)
    assert len(found["query_instances"]) == number
    assert all(x.scores.isfinite().all() for x in found["query_instances"])
