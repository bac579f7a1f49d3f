"""The index: completeness, chains, and how it is shown."""

import re
from pathlib import Path

import pytest

from spnet_d2.experiments import load_index
from spnet_d2.experiments.latex import LATEX_TABLES, latex_table
from spnet_d2.experiments.page import markdown_page
from spnet_d2.experiments.paper import FINETUNE_HOURS, PRETRAIN_HOURS, published
from spnet_d2.experiments.results import metrics_file, read_metrics, relocated
from spnet_d2.experiments.tables import comparison, list_table, markdown_table, pair

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def index():
    return load_index(ROOT)


def test_every_file_of_the_authors_is_covered_once():
    """120 files, by folder as in their repository; Table 5's random start has none."""
    files = [entry.authors for entry in published() if entry.authors]
    assert len(files) == len(set(files)) == 120
    counts = {}
    for file in files:
        folder = file.partition("/")[0]
        counts[folder] = counts.get(folder, 0) + 1
    assert counts == {
        "baseline": 31,
        "benchmark": 2,
        "comparison": 22,
        "inference": 4,
        "qc_oc": 33,
        "sample_ablation": 20,
        "sota": 8,
    }
    without = [entry.name for entry in published() if not entry.authors]
    assert without == ["table5/cuhk_sysu_random", "table5/prw_random"]


# mAP / top-1 on CUHK-SYSU and PRW, typed from the paper's tables once more.
PAPER = {
    "Table 1: SPNet-L, ResNet50": (93.8, 94.5, 51.2, 86.9),
    "Table 3: SPNet-L, Classifier / IN1k": (95.9, 96.6, 58.9, 89.7),
    "Table 3: SPNet-L, Ours-OC / COCO": (95.8, 96.4, 60.7, 90.2),
    "Table 3: SPNet-L, Ours-QC / COCO": (96.4, 97.0, 61.2, 90.9),
    "Table 3: Swin-B, - / -": (69.8, 71.8, 20.3, 68.7),
    "Table 3: Swin-B, SOLIDER LUP / -": (88.0, 89.4, 38.1, 81.3),
    "Table 3: Swin-B, SOLIDER LUP / SOLIDER COCO": (88.0, 89.4, 38.1, 81.3),
    "Table 3: Swin-B, Classifier IN1k / -": (94.2, 95.0, 49.7, 85.8),
    "Table 3: Swin-B, Classifier IN1k / SOLIDER COCO": (94.0, 94.8, 49.7, 86.1),
    "Table 3: Swin-B, Classifier IN1k / Ours-OC COCO": (94.4, 95.2, 52.6, 88.7),
    "Table 3: Swin-B, SOLIDER LUP / Ours-QC COCO": (95.1, 95.8, 53.0, 88.3),
    "Table 3: Swin-B, Classifier IN1k / Ours-QC COCO": (95.8, 96.3, 54.2, 89.0),
    "Table 6: Baseline": (91.9, 93.2, 52.7, 86.6),
    "Table 6: Re-id Only": (91.5, 93.0, 51.9, 87.4),
    "Table 6: OC Re-id GT": (92.4, 93.7, 55.7, 89.1),
    "Table 6: QC Re-id GT": (93.2, 94.3, 55.1, 88.5),
    "Table 6: OC Original": (92.8, 94.1, 54.5, 88.8),
    "Table 6: QC Original": (93.3, 94.1, 55.6, 89.5),
    "Table 8: OC-FT": (91.9, 93.2, 52.7, 86.6),
    "Table 8: OC-FT+PT": (93.3, 94.1, 55.6, 89.5),
    "Table 8: QC-FT": (80.8, 87.7, 54.0, 86.7),
    "Table 8: QC-FT+PT": (77.4, 85.4, 54.1, 87.1),
    "Table 9: BatchNorm Logits (+)": (90.4, 91.9, 49.8, 84.3),
    "Table 9: BatchNorm Logits (-)": (91.2, 92.0, 42.2, 82.2),
    "Table 9: FixedNorm Logits (+)": (91.1, 92.2, 52.6, 86.3),
    "Table 9: FixedNorm Logits (-)": (91.9, 93.2, 52.7, 86.6),
}
# mAP, GT mAP, AP@0.5.
TABLE_5 = {
    "Random Init.": (69.8, 85.8, 47.8, 22.3, 28.7, 66.8),
    "Classifier": (91.9, 95.8, 83.2, 52.7, 56.6, 88.8),
    "Ours-OC": (92.8, 96.3, 83.9, 54.5, 57.6, 89.1),
    "Ours-QC": (93.3, 95.9, 84.9, 55.6, 58.7, 88.9),
}


def _row(row: str, metrics: tuple[str, ...]) -> tuple[float, ...]:
    entries = {e.corpus: e for e in published() if row in e.rows}
    return tuple(entries[c].metrics[m] for c in ("cuhk_sysu", "prw") for m in metrics)


@pytest.mark.parametrize("row", PAPER)
def test_published_metrics(row):
    assert _row(row, ("mAP", "top1")) == PAPER[row]


@pytest.mark.parametrize("row", TABLE_5)
def test_published_metrics_of_table_5(row):
    assert _row(f"Table 5: {row}", ("mAP", "gt_mAP", "AP50")) == TABLE_5[row]


def test_all_metrics_are_checked_above():
    rows = {row for e in published() if e.metrics for row in e.rows}
    rest = rows - set(PAPER) - {f"Table 5: {row}" for row in TABLE_5}
    # Repetitions of these.
    assert all(row.startswith(("Figure", "Table 5: Ours-QC, ev", "Table 3: SPNet-L, Ours-QC, ev"))
               for row in rest)  # fmt: skip


def test_hours():
    assert PRETRAIN_HOURS == {"S": {"oc": 24.5, "qc": 30.0}, "L": {"oc": 40.5, "qc": 46.5}}
    assert FINETUNE_HOURS["S"] == {"cuhk_sysu": 2.5, "prw": 1.5}
    assert FINETUNE_HOURS["L"] == {"cuhk_sysu": 9.0, "prw": 4.5}
    for entry in published():
        assert (entry.hours is None) == entry.evaluate


@pytest.mark.parametrize(
    "name, steps, hours",
    [
        ("table5/prw_classifier", ["table5/prw_classifier"], 1.5),
        ("table3/prw_qc", ["table3/pretrain_qc", "table3/prw_qc"], 51.0),
        ("figure7/prw_qc_mixed_lr", ["table5/pretrain_qc", "table5/prw_qc"], 31.5),
        (
            "inference/prw_spnet_s",
            [
                "figure7/pretrain_qc_mixed_lr_lwf",
                "figure7/prw_qc_mixed_lr_lwf",
                "inference/prw_spnet_s",
            ],
            31.5,
        ),
    ],
)
def test_chains(index, name, steps, hours):
    assert [step.name for step in index.chain(index[name])] == steps
    assert index.hours(index[name]) == hours


def test_every_chain_begins_without_weights(index):
    for experiment in index:
        first, *rest = index.chain(experiment)
        assert not first.cfg.MODEL.WEIGHTS
        for step, before in zip(rest, [first, *rest]):
            assert step.cfg.MODEL.WEIGHTS == f"{before.output_dir}/model_final.pth"
        kinds = [step.kind for step in (first, *rest)]
        assert kinds in (
            ["pre-train"],
            ["fine-tune"],
            ["pre-train", "fine-tune"],
            ["pre-train", "fine-tune", "evaluate"],
        )


def test_an_experiment_is_found_by_its_config_and_otherwise_named(index):
    assert index["projects_configs/table5/prw_qc.yaml"].name == "table5/prw_qc"
    with pytest.raises(KeyError, match="table5/prw_qc"):
        index["table5/prw_cq"]


def test_lists(index):
    done = {"table5/prw_qc": {"mAP": 55.04, "top1": 88.96}}
    chosen = [index["table5/prw_qc"], index["table8/prw_qc_finetune"]]
    first, second = list_table(index, chosen, done).splitlines()[2:]
    assert "55.6 / 89.5" in first and "55.0 / 89.0" in first
    assert "table5/pretrain_qc -> table5/prw_qc" in first
    assert "3.7*" in second
    assert "| 55.6 / 89.5 | 55.0 / 89.0 | 1.5 |" in markdown_table(chosen, done)
    text = comparison(chosen[0], done["table5/prw_qc"])
    assert re.search(r"mAP +55\.0 +55\.6 +-0\.6", text)
    assert re.search(r"AP@0\.5 +- +88\.9", text)


def _metrics(cell: str) -> dict[str, float]:
    """Of a cell "mAP / top-1"."""
    return dict(zip(("mAP", "top1"), map(float, filter(None, cell.split("/"))), strict=False))


def _rows(document: str) -> dict[str, list[str]]:
    """Cells of a document's table rows by the experiment they link to."""
    rows = {}
    for line in (ROOT / document).read_text(encoding="utf-8").splitlines():
        if found := re.search(r"projects_configs/([\w/]+)\.yaml", line):
            rows[found[1]] = [cell.strip() for cell in line.strip("|").split(" | ")]
    return rows


def test_the_page_of_experiments_is_what_reproduce_prints(index):
    rows = _rows("docs/experiments.md")
    assert list(rows) == [experiment.name for experiment in index]
    done = {name: _metrics(cells[3].strip()) for name, cells in rows.items()}
    page = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
    assert page == markdown_page(index, done)


def test_the_model_zoo_has_the_published_metrics(index):
    rows = _rows("MODEL_ZOO.md")
    assert len(rows) == 8
    for name, cells in rows.items():
        assert cells[3] == pair(index[name].paper.metrics), name


def test_where_metrics_are(index, tmp_path):
    experiment = index["table5/prw_qc"]
    path = metrics_file(experiment, tmp_path)
    assert path == tmp_path / "table5/prw_qc/inference/prw_test/metrics.json"
    assert read_metrics(path) is None
    path.parent.mkdir(parents=True)
    path.write_text('{"mAP": 0.556, "top1": 0.895, "protocol": "test", "AP50": null}')
    assert read_metrics(path) == pytest.approx({"mAP": 55.6, "top1": 89.5})
    path.write_text('{"mAP":')
    with pytest.raises(ValueError, match="remove it"):
        read_metrics(path)
    assert relocated("outputs/a/b", "x") == Path("x/a/b")
    assert relocated("weights/a", "x") == Path("weights/a")


def test_latex(index):
    metrics = {e.name: e.paper.metrics for e in index}
    text = latex_table("table8", metrics)
    assert r"OC-FT+PT & \textbf{93.3} & \textbf{94.1} & \textbf{55.6} & \textbf{89.5} \\" in text
    assert r"Gain from PT & -3.4 & -2.3 & +0.1 & +0.4 \\" in text
    assert latex_table("table5", {}).count(" & -") == 4 * 6
    with pytest.raises(ValueError, match="table1, table3"):
        latex_table("table2", metrics)
    names = {name for table in LATEX_TABLES.values() for row in table.values() for name in row}
    assert names <= set(metrics)
