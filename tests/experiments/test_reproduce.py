"""tools/reproduce.py and tools/plot_results.py, on miniature corpora with a tiny model."""

import json
import logging
import re
from pathlib import Path

import pytest
import torch

from spnet_d2.data.catalog import register_builtin_datasets
from spnet_d2.engine import Trainer
from spnet_d2.experiments import load_index, miniature
from spnet_d2.experiments.plots import FIGURES, drawn
from tests.fixtures.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
INDEX = load_index(ROOT)


def load_tool(name: str):
    module = load_script(f"tools/{name}.py")
    # Reading all configs takes a second, each time.
    module.load_index = lambda root: INDEX
    return module


@pytest.fixture(scope="module")
def reproduce():
    return load_tool("reproduce")


@pytest.fixture(scope="module")
def plot_results():
    return load_tool("plot_results")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An output root with toy corpora; the real names come back afterwards."""
    yield tmp_path_factory.mktemp("reproduce")
    register_builtin_datasets()


@pytest.fixture(autouse=True)
def _quiet():
    """Training logs to the terminal unless told otherwise."""
    logging.getLogger("detectron2").setLevel(logging.WARNING)
    yield


def mini(reproduce, root: Path, *arguments: str):
    return reproduce.main([*arguments, "--scale", "mini", "--output", str(root)])


def lines_of(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if re.match(r"\[\d/\d\]", line)]


@pytest.mark.parametrize("name, pretrain", [
    ("table5/prw_oc", "table5/pretrain_oc"),
    ("table3/cuhk_sysu_qc", "table3/pretrain_qc"),
])  # fmt: skip
def test_chain_runs_and_is_skipped_when_done(reproduce, root, capsys, name, pretrain):
    """Pre-training (OC, QC) and then fine-tuning, the second one with SPNet-L's heads."""
    metrics = mini(reproduce, root, name)
    output = capsys.readouterr().out
    assert set(metrics) == {"mAP", "top1", "gt_mAP", "AP50"}
    assert f"[1/2] {pretrain} starts (pre-train" in output
    assert f"[2/2] {name} starts (fine-tune" in output
    assert "reached" in output and "published" in output
    for part in (pretrain, name):
        assert (root / part / "model_final.pth").is_file()
    # It started from the pre-trained weights.
    log = (root / name / "log.txt").read_text()
    assert str(root / pretrain / "model_final.pth") in log

    changed = (root / name / "model_final.pth").stat().st_mtime_ns
    assert mini(reproduce, root, name) == metrics
    assert (root / name / "model_final.pth").stat().st_mtime_ns == changed
    assert [line.split()[-3:-1] for line in lines_of(capsys)] == [["is", "finished:"]] * 2


class Interrupted(Exception):
    pass


def test_interrupted_step_goes_on(reproduce, root, capsys, monkeypatch):
    name = "table9/prw_batchnorm_pos"
    step = Trainer.run_step

    def run_step(self):
        if self.iter == 1:
            raise Interrupted
        step(self)

    monkeypatch.setattr(Trainer, "run_step", run_step)
    with pytest.raises(Interrupted):
        mini(reproduce, root, name)
    monkeypatch.undo()
    assert (root / name / "last_checkpoint").read_text() == "model_0000000.pth"
    capsys.readouterr()
    mini(reproduce, root, name)
    assert lines_of(capsys) == [f"[1/1] {name} goes on from its last checkpoint"]
    final = torch.load(root / name / "model_final.pth", weights_only=True)
    assert final["iteration"] == 1

    # With other settings it is another run.
    with pytest.raises(SystemExit, match=r"other settings \(SOLVER.BASE_LR 0.0001 -> 0.5\)"):
        mini(reproduce, root, name, "SOLVER.BASE_LR", "0.5")
    # The number of workers is no matter.
    mini(reproduce, root, name, "DATALOADER.NUM_WORKERS", "2")


def test_an_evaluation_that_was_interrupted_is_made_again(reproduce, root, capsys):
    """Trained, but without metrics: it is evaluated, and not trained again."""
    name = "table9/prw_batchnorm_pos"
    record = root / name / "reproduce.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "metrics": None}))
    changed = (root / name / "model_final.pth").stat().st_mtime_ns
    assert mini(reproduce, root, name) == content["metrics"]
    assert (root / name / "model_final.pth").stat().st_mtime_ns == changed


def test_missing_inputs_end_it_before_anything_runs(reproduce, tmp_path):
    register_builtin_datasets(tmp_path / "nowhere")
    arguments = ["table3_swin_b/prw_qc_lup", "--output", str(tmp_path), "--num-gpus", "0"]
    with pytest.raises(SystemExit) as error:
        reproduce.main(arguments)
    message = str(error.value)
    for text in ("coco/coco/train.json", "prepare_prw.py", "solider_swin_base_lup.pth"):
        assert text in message
    assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit, match="no experiment 'table5/nothing'"):
        reproduce.main(["table5/nothing"])


def test_list(reproduce, tmp_path, capsys):
    reproduce.main(["--list", "--output", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "122 experiments" in printed and "SeqNeXt + GFN" in printed
    reproduce.main(["--list", "field", "--output", str(tmp_path)])
    assert "122 experiments" not in (printed := capsys.readouterr().out) and "COAT" in printed
    reproduce.main(["--list", "figure8", "--markdown", "--output", str(tmp_path)])
    assert len(capsys.readouterr().out.splitlines()) == 2 + 13


@pytest.mark.parametrize(
    "arguments, message", [([], "name an experiment"), (["table5/prw_oc", "SEED"], "KEY VALUE")]
)
def test_wrong_arguments(reproduce, capsys, arguments, message):
    with pytest.raises(SystemExit):
        reproduce.main(arguments)
    assert message in capsys.readouterr().err


def test_miniature_keeps_what_an_experiment_is_about():
    cfg = INDEX["figure7/pretrain_qc_frozen"].cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(miniature.settings(cfg))
    assert cfg.MODEL.SPNET.BACKBONE.FREEZE and cfg.MODEL.SPNET.PATHWAY == "QC"
    assert cfg.DATALOADER.VIEWS_PER_IMAGE == 2 and cfg.SOLVER.BACKBONE_LR == 1e-5


# ------------------------------------------------------------------------------- plot_results.py


def write_runs(root: Path) -> None:
    """Metrics of all experiments of Figures 6 to 8 and Table 9."""
    for i, experiment in enumerate(INDEX):
        if experiment.paper.corpus:
            folder = root / experiment.output_dir.removeprefix("outputs/")
            file = folder / "inference" / experiment.cfg.DATASETS.TEST[0] / "metrics.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(dict.fromkeys(("mAP", "top1", "AP50"), 0.5 + i / 1000)))


def test_figures_and_tables_of_runs(plot_results, tmp_path, capsys):
    write_runs(tmp_path / "runs")
    arguments = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]
    written = plot_results.main([*arguments, "--format", "svg"])
    names = ["figure6.svg", "figure7.svg", "figure8.svg"]
    names += [f"table{n}.tex" for n in (1, 3, 5, 6, 8, 9)]
    assert [path.name for path in written] == names
    assert all(path.stat().st_size > 100 for path in written)
    assert "BatchNorm" in (tmp_path / "out/table9.tex").read_text()


def test_what_figures_show():
    known = {e.name: {"mAP": 50.0 + i, "top1": 60.0 + i, "AP50": 70.0} for i, e in enumerate(INDEX)}
    counts = {name: drawn(draw(known)) for name, draw in FIGURES.items()}
    # (metrics) x (OC, QC) x (noise levels); x (ways to train the trunk); x (architectures, modes).
    assert counts == {"figure6": 3 * 2 * 5, "figure7": 2 * 2 * 4, "figure8": 2 * 11}
    few = {"figure6/cuhk_sysu_qc_p20": {"mAP": 90.0}}
    assert drawn(FIGURES["figure6"](few)) == 1 and drawn(FIGURES["figure7"](few)) == 0
    line = FIGURES["figure6"](known).axes[0].lines[0]
    assert list(line.get_xdata()) == [20, 60, 100, 140, 180]
    first = list(known).index("figure6/cuhk_sysu_oc_p20")
    assert list(line.get_ydata()) == [50.0 + first + k for k in range(5)]


def test_bars_stand_around_their_label_and_the_legend_beside_the_panels():
    known = {e.name: {"mAP": 50.0, "top1": 60.0} for e in INDEX}
    figure = FIGURES["figure8"](known)
    figure.draw_without_rendering()
    (axis, _), (legend,) = figure.axes, figure.legends
    middles = [bar.get_x() + bar.get_width() / 2 for bar in axis.patches]
    groups = [[x for x in middles if round(x) == k] for k in range(5)]
    assert [len(g) for g in groups] == [2, 2, 2, 2, 3]
    assert [sum(g) / len(g) for g in groups] == pytest.approx(range(5))
    assert [text.get_text() for text in legend.get_texts()] == ["Baseline", "PT", "PT-Rep"]
    box = legend.get_window_extent()
    assert not any(box.overlaps(a.get_tightbbox()) for a in figure.axes)


def test_no_runs_to_plot(plot_results, tmp_path, capsys):
    with pytest.raises(SystemExit, match="no evaluated experiment below"):
        plot_results.main(["--runs", str(tmp_path)])
    with pytest.raises(SystemExit):
        plot_results.main(["figure5"])
    assert "choose from figure6" in capsys.readouterr().err
    plot_results.main(["table6", "figure6", "--paper", "--output", str(tmp_path)])
    assert "nothing is known" in capsys.readouterr().out
    assert "92.4" in (tmp_path / "table6.tex").read_text()
