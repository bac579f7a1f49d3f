"""The comparison of models at equal budget."""

import json
from pathlib import Path

from spnet_d2.config_reader import read_config
from spnet_d2.experiments.side_by_side import (
    CONFIGS,
    MODELS,
    TARGETS,
    collect_models,
    make_runs,
    models_table,
)

ROOT = Path(__file__).resolve().parents[2]


def test_budget_is_equal():
    """The same data, crops, batch, trunk, what of it trains, optimiser and schedule."""

    def budget(key):
        cfg = read_config(ROOT / CONFIGS / f"{key}.yaml", [])
        options = cfg.MODEL.SPNET
        solver = {k: v for k, v in cfg.SOLVER.items() if k != "CHECKPOINT_PERIOD"}
        fixed = options.BACKBONE, options.SMALL_DATA.FREEZE_ROI, options.REID_DIM
        return cfg.DATASETS, cfg.INPUT, solver, fixed, cfg.TEST.PROTOCOLS

    kinds = [
        read_config(ROOT / CONFIGS / f"{key}.yaml", []).MODEL.META_ARCHITECTURE for key in MODELS
    ]
    assert kinds == list(MODELS.values())
    assert budget("spnet") == budget("seqnext") == budget("seqnet")


def test_table_of_what_is_finished(tmp_path):
    chains = make_runs([0, 1])
    assert [chain[0].name for chain in chains][:4] == [
        *("spnet_s0", "seqnext_s0", "seqnet_s0", "spnet_s1")
    ]
    for (run,), value in zip(chains[:4], (0.5, 0.4, 0.3, 0.6), strict=True):
        assert run.opts == ("SEED", run.name[-1])
        file = run.result_file(tmp_path)
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(dict.fromkeys(TARGETS["spnet"].metrics, value)))
    found = collect_models(chains, tmp_path)
    assert [len(found[key]) for key in MODELS] == [2, 1, 1]
    lines = models_table(found).splitlines()[2:]
    assert [line.split("|")[1].strip() for line in lines] == list(MODELS.values())
    assert "55.0 ± 7.1" in lines[0] and "| 40.0 " in lines[1] and "| 30.0 " in lines[2]
