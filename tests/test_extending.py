"""The code of docs/extending.md, which is one program, runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from detectron2.modeling import BACKBONE_REGISTRY

from spnet_d2.data.catalog import unregister
from spnet_d2.modeling.reid_losses import REID_LOSSES
from tests.engine.conftest import _restored_loggers  # noqa: F401

PAGE = Path(__file__).resolve().parents[1] / "docs" / "extending.md"


@pytest.fixture
def leaves_no_trace(tmp_path, monkeypatch):
    """A folder to work in; the names that the page registers are gone afterwards."""
    registries = [registry._obj_map for registry in (BACKBONE_REGISTRY, REID_LOSSES)]
    before = [dict(names) for names in registries]
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for names, old in zip(registries, before, strict=True):
        names.clear()
        names.update(old)
    for name in ("lobby_train", "lobby_test"):
        unregister(name)


def test_the_page_runs_from_top_to_bottom(leaves_no_trace):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)

    assert set(names["results"]["all"]) >= {"mAP", "top1", "gt_mAP"}
    trainer = names["trainer"]
    assert type(trainer.model.backbone).__name__ == "SmallFPN"
    assert type(trainer.model.roi_heads.reid_loss).__name__ == "BatchHardTriplet"
    assert len(names["minp"].values) == 2
    assert len(names["store"]["vectors"]) == len(names["store"]["boxes"])
    exact = names["gallery"].rank(names["gallery"].embeddings[0], topk=3)
    found = [m.similarity for m in names["matches"]]
    assert len(found) == 3 and found == pytest.approx([m.similarity for m in exact], abs=1e-5)


def test_the_metric_of_the_page():
    """Two matches on ranks 1 and 4 of 5 boxes: 2 / 4; one of two that is not found: 0."""
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    (block,) = (block for block in blocks if "class InverseNegativePenalty" in block)
    names = {"np": np}
    exec(block[: block.index("minp = ")], names)
    minp = names["InverseNegativePenalty"]()

    class Ranking:
        similarities = np.array([0.1, 0.9, 0.5, 0.4, 0.2])
        hits = np.array([1, 4])
        present = 2

    minp(Ranking)
    Ranking.present = 3
    minp(Ranking)
    assert minp.values == [0.5, 0.0]
