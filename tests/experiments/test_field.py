"""The field's table: complete rows, and the document that shows it."""

from pathlib import Path

import pytest

from spnet_d2.experiments.field import HEADERS, field_markdown, field_table, methods
from spnet_d2.experiments.paper import CORPORA, published

ROOT = Path(__file__).resolve().parents[2]
METHODS = {(m.name, m.backbone, m.pretraining): m for m in methods()}


def test_no_row_is_twice_and_all_have_both_corpora():
    assert len(METHODS) == len(methods())
    for method in methods():
        assert set(method.metrics) == set(CORPORA), method.name
        assert all(0 < value < 100 for pair in method.metrics.values() for value in pair)


@pytest.mark.parametrize("name, backbone, best", [
    ("SeqNet", "ResNet-50", "46.7 / 83.4"),
    ("SeqNeXt + GFN", "ConvNeXt-B", "58.3 / 92.4"),
    ("COAT", "ResNet-50", "53.3 / 87.4"),
])  # fmt: skip
def test_published_metrics(name, backbone, best):
    assert METHODS[name, backbone, "ImageNet"].scores("prw") == best


def test_own_rows_are_the_papers():
    paper = {entry.name: entry.metrics for entry in published()}
    rows = [m for m in methods() if m.name.startswith("SPNet")]
    assert len(rows) == 8
    for method in rows:
        experiment = method.here.removeprefix("reproduce ").replace("CORPUS", "prw")
        found = paper[experiment]
        assert method.metrics["prw"] == (found["mAP"], found["top1"])
    assert [m.fps for m in rows if m.fps] == [27.6]


def test_the_model_zoo_shows_what_is_rendered():
    assert field_markdown() in (ROOT / "MODEL_ZOO.md").read_text(encoding="utf-8")


def test_text_has_every_method_and_no_addresses():
    text = field_table()
    assert all(header in text.splitlines()[0] for header in HEADERS)
    assert len(text.splitlines()) == 2 + len(methods())
    assert "https" not in text
