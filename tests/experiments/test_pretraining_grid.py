import json
import os
import sys
from pathlib import Path

import pytest
from detectron2.config import get_cfg

from spnet_d2 import add_spnet_config
from spnet_d2.experiments.pretraining_grid import (
    FITTED,
    PETS09,
    STRANGERS,
    check_settings,
    collect,
    make_grid,
    plot,
    run_grid,
    table,
    variants,
)

ROOT = Path(__file__).resolve().parents[2]
(TARGET,) = PETS09.targets

# Stands for tools/train_net.py: writes what a finished run leaves, counts its calls.
TOOL = """
import json, pathlib, sys
result, calls, name = map(pathlib.Path, sys.argv[1:])
with calls.open("a") as f: f.write(f"{name}\\n")
if str(name) == "oc_p20_s0": sys.exit(3)
result.parent.mkdir(parents=True, exist_ok=True)
value = 0.5 + 0.1 * str(name).startswith("qc") + 0.02 * str(name).endswith("s1")
keys = ("standard/mAP", "standard/gt_mAP", "reentry/mAP", "reentry/gt_mAP", "AP50")
result.write_text(json.dumps(dict.fromkeys(keys, value)))
"""


def run(chains, root: Path) -> tuple[list[str], list[str], list[str]]:
    """Failed runs, started runs, lines said."""
    calls, lines = root / "calls", []
    calls.write_text("")

    def command(run):
        return [sys.executable, "-c", TOOL, str(run.result_file(root)), str(calls), run.name]

    failed = run_grid(chains, root, command, dict(os.environ), jobs=2, say=lines.append)
    return failed, calls.read_text().split(), lines


def test_grid_has_every_start_for_every_seed():
    chains = make_grid(PETS09, [0, 1, 2])
    assert len(chains) == 3 * (1 + 2 * 3)
    names = [chain[-1].name for chain in chains]
    assert len(set(names)) == len(names)
    assert {name.rpartition("_s")[0] for name in names} == set(variants(PETS09))
    for chain in chains:
        assert chain[-1].target and chain[-1].config == "experiment_finetune.yaml"
        seeds = {run.opts[run.opts.index("SEED") + 1] for run in chain}
        assert seeds == {chain[-1].name[-1]}
        assert chain[-1].source is (chain[0] if len(chain) == 2 else None)
    first = make_grid(PETS09, [4])[3][0]
    assert first.name == "pretrain_oc_p20_s4"  # after none, and both with all labels
    assert first.opts == (
        "SEED",
        "4",
        "DATASETS.TRAIN",
        "('pets09_weak_train_p20',)",
    )


def test_weights_come_from_the_pre_training(tmp_path):
    first, second = make_grid(PETS09, [0])[1]
    settings = second.settings(tmp_path)
    weights = settings[settings.index("MODEL.WEIGHTS") + 1]
    assert Path(weights) == first.result_file(tmp_path)
    assert "MODEL.WEIGHTS" not in first.settings(tmp_path)
    assert "MODEL.WEIGHTS" not in make_grid(PETS09, [0])[0][0].settings(tmp_path)


def test_strangers_are_fine_tuned_on_both_sets_of_people(tmp_path):
    chains = make_grid(STRANGERS, [2])
    assert [len(chain) for chain in chains] == [2, *[3, 5] * 3]
    first, on_mot15, on_pets09, *fitted = chains[6]
    assert first.opts[-1] == "('strangers_weak_p180',)"
    assert on_mot15.source is on_pets09.source is first
    assert (on_mot15.name, on_pets09.name) == ("on_mot15_qc_p180_s2", "on_pets09_qc_p180_s2")
    assert on_pets09.result_file(tmp_path).parent.name == "mot15_people"
    # Once more, with bridges that start as least-squares maps.
    assert [run.name for run in fitted] == [
        "on_mot15_qc_fitted_p180_s2",
        "on_pets09_qc_fitted_p180_s2",
    ]
    assert {run.source for run in fitted} == {first}
    assert fitted[0].opts == (*on_mot15.opts, *FITTED)
    named = {
        run.name.removeprefix(run.target.prefix) for chain in chains for run in chain if run.target
    }
    assert {name.rpartition("_s")[0] for name in named} == set(variants(STRANGERS))


@pytest.mark.parametrize("target", [*PETS09.targets, *STRANGERS.targets], ids=lambda t: t.config)
def test_figures_have_the_names_that_an_evaluation_gives_them(target):
    """A protocol's name before them, where there are several: docs/evaluation.md."""
    study = STRANGERS if target in STRANGERS.targets else PETS09
    cfg = get_cfg()
    add_spnet_config(cfg)
    cfg.merge_from_file(str(ROOT / study.configs / target.config))
    protocols = [metric.rpartition("/")[0] for metric in target.metrics if "AP50" not in metric]
    named = cfg.TEST.PROTOCOLS if len(cfg.TEST.PROTOCOLS) > 1 else ("",)
    assert set(protocols) == set(named)


@pytest.mark.parametrize("study, least_rows", [(PETS09, 669), (STRANGERS, 3585)])
def test_pathways_train_on_as_many_anchors(study, least_rows):
    configs = {}
    for name in ("pretrain_oc", "pretrain_qc", *(t.config[:-5] for t in study.targets)):
        cfg = get_cfg()
        add_spnet_config(cfg)
        cfg.merge_from_file(str(ROOT / study.configs / f"{name}.yaml"))
        configs[name] = cfg
    oc, qc = configs["pretrain_oc"], configs["pretrain_qc"]
    assert (oc.MODEL.SPNET.PATHWAY, qc.MODEL.SPNET.PATHWAY) == ("OC", "QC")
    per_batch = qc.MODEL.SPNET.QC.PAIRS_PER_BATCH * qc.MODEL.SPNET.QC.ANCHORS_PER_PAIR
    assert oc.SOLVER.IMS_PER_BATCH * oc.MODEL.SPNET.ANCHORS_PER_IMAGE == per_batch
    assert oc.SOLVER.MAX_ITER == qc.SOLVER.MAX_ITER
    for cfg in configs.values():
        # Fine-tuning takes every layer over.
        assert cfg.MODEL.SPNET.BACKBONE.NAME == oc.MODEL.SPNET.BACKBONE.NAME
        for key in ("ROI_STRIPES", "ROI_POOLING", "ROI_MARGIN"):
            assert cfg.MODEL.SPNET.SMALL_DATA[key] == oc.MODEL.SPNET.SMALL_DATA[key]
        for key in ("EMBED_DIM", "REID_DIM", "SEPARATE_HEADS"):
            assert cfg.MODEL.SPNET[key] == oc.MODEL.SPNET[key]
        assert cfg.MODEL.SPNET.SMALL_DATA.FEAT4_SHARE == oc.MODEL.SPNET.SMALL_DATA.FEAT4_SHARE
    # A row for each box of the noisiest labels.
    assert oc.MODEL.SPNET.REID.QUEUE_SIZE > least_rows


def test_a_failure_ends_its_chain_and_a_repetition_runs_the_rest(tmp_path):
    chains = make_grid(PETS09, [0, 1])
    failed, started, lines = run(chains, tmp_path)
    assert failed == ["oc_p20_s0"]
    assert len(started) == len(set(started)) == 2 * 13
    assert any("oc_p20_s0 FAILED (exit status 3)" in line for line in lines)
    assert run(chains, tmp_path)[:2] == (["oc_p20_s0"], ["oc_p20_s0"])
    # What follows a pre-training starts after it.
    assert started.index("pretrain_qc_p20_s1") < started.index("qc_p20_s1")


def test_table_and_plot(tmp_path):
    chains = make_grid(PETS09, [0, 1])
    run(chains, tmp_path)
    found = collect(chains, tmp_path, TARGET)
    assert [len(found[name]) for name in ("none", "oc_p20", "qc_p180")] == [2, 1, 2]
    text = table(found, TARGET, PETS09)
    rows = {line.split("|")[1].strip(): line for line in text.splitlines()[2:]}
    assert list(rows) == list(variants(PETS09).values())
    assert "61.0 ± 1.4" in rows["QC pre-training, all boxes"]  # 60 and 62
    assert "| 52.0 " in rows["OC pre-training, 80 % missing"]  # seed 1 only: no spread
    figure = plot(found, TARGET, PETS09)
    assert [axis.get_title() for axis in figure.axes] == list(TARGET.metrics.values())
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "OC pre-training",
        "QC pre-training",
        "ImageNet only",
    }


def test_unfinished_variants_stay_empty():
    text = table({"none": [dict.fromkeys(TARGET.metrics, 50.0)]}, TARGET, PETS09)
    assert text.splitlines()[3].split("|")[2].strip() == ""


def test_other_settings_are_refused(tmp_path):
    run_ = make_grid(PETS09, [0])[0][0]
    check_settings(run_, tmp_path, ["SOLVER.MAX_ITER", "3"], "a")
    check_settings(run_, tmp_path, ["SOLVER.MAX_ITER", "3"], "a")
    for opts, config in ((["SOLVER.MAX_ITER", "4"], "a"), (["SOLVER.MAX_ITER", "3"], "b")):
        with pytest.raises(ValueError, match=f"{run_.name} was made with other settings"):
            check_settings(run_, tmp_path, opts, config)
    assert json.loads((tmp_path / run_.name / "settings.json").read_text())["config"] == "a"
