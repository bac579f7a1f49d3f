"""What the paper reports of every experiment: rows, metrics in percent and GPU hours.

An experiment's name is its config in ``projects_configs/`` without the ending. ``authors`` is the
file of the authors' code that it stands for. Metrics are typed from the paper; where a row is only
plotted, or is a pre-training, there are none.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

CORPORA = {"cuhk_sysu": "cuhk", "prw": "prw"}
PATHWAYS = ("oc", "qc")

# Table 4: hours on one A100, by trunk.
PRETRAIN_HOURS = {"S": {"oc": 24.5, "qc": 30.0}, "L": {"oc": 40.5, "qc": 46.5}}
FINETUNE_HOURS = {"S": {"cuhk_sysu": 2.5, "prw": 1.5}, "L": {"cuhk_sysu": 9.0, "prw": 4.5}}

# What the derived hours below rest on.
LIKE_S = "as SPNet-S in Table 4"
LIKE_L = "as SPNet-L in Table 4"
SWIN_FINETUNE = "SPNet-S's of Table 4, times SPNet-L's over SPNet-S's in pre-training"
QC_FINETUNE = "Table 4's, times 2 for the two views, times QC's over OC's in pre-training"
NOISE = "Table 4's, times 20 / 30 epochs; at most, for there are fewer images"


@dataclass(frozen=True)
class Published:
    """
    One experiment as the paper and the authors' code have it.

    Attributes:
        name: config without folder ``projects_configs`` and ending.
        rows: "Table 5: Ours-QC", all places where it stands.
        authors: file of the authors' code, "" where they published none.
        metrics: percent: ``mAP``, ``top1``, ``gt_mAP``, ``AP50``, as far as printed.
        hours: on one A100; None for an evaluation.
        derived: where ``hours`` come from if not from Table 4.
        evaluate: weights of another experiment are evaluated, nothing is trained.
        note: anything that makes the comparison doubtful.
    """

    name: str
    rows: tuple[str, ...]
    authors: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    hours: float | None = None
    derived: str = ""
    evaluate: bool = False
    note: str = ""

    @property
    def corpus(self) -> str:
        """``cuhk_sysu`` or ``prw``; "" for a pre-training."""
        stem = self.name.rpartition("/")[2]
        return next((c for c in CORPORA if stem.startswith(c)), "")


def published() -> list[Published]:
    """All experiments, in the order of the paper's tables and figures."""
    tables = [_table1, _table3, _table3_swin_b, _table5, _table6, _table8, _table9]
    parts = [*tables, _figure6, _figure7, _figure8, _inference]
    return [entry for part in parts for entry in part()]


def _scores(map_: float, top1: float, gt_map: float | None = None, ap50: float | None = None):
    metrics = {"mAP": map_, "top1": top1, "gt_mAP": gt_map, "AP50": ap50}
    return {name: value for name, value in metrics.items() if value is not None}


def _table1() -> Iterator[Published]:
    for corpus, metrics in {
        "cuhk_sysu": _scores(93.8, 94.5),
        "prw": {**_scores(51.2, 86.9), "FPS": 27.6},
    }.items():
        yield Published(
            f"table1/{corpus}_resnet50",
            ("Table 1: SPNet-L, ResNet50",),
            f"benchmark/{CORPORA[corpus]}_final_r1024_rn50",
            metrics,
            FINETUNE_HOURS["L"][corpus],
            LIKE_L,
        )


def _table3() -> Iterator[Published]:
    metrics = {
        "cuhk_sysu": ((95.9, 96.6), (95.8, 96.4), (96.4, 97.0)),
        "prw": ((58.9, 89.7), (60.7, 90.2), (61.2, 90.9)),
    }
    for pathway in PATHWAYS:
        yield Published(
            f"table3/pretrain_{pathway}",
            ("Table 4: SPNet-L, pre-train",),
            f"sota/pretrain/coco_{pathway}_cnb",
            hours=PRETRAIN_HOURS["L"][pathway],
        )
    for corpus, scores in metrics.items():
        short = CORPORA[corpus]
        rows = {
            "classifier": ("Classifier / IN1k", f"sota/baseline/{short}_final_r1024"),
            "oc": ("Ours-OC / COCO", f"sota/finetune/{short}_oc_final_r1024"),
            "qc": ("Ours-QC / COCO", f"sota/finetune/{short}_qc_final_r1024"),
        }
        for (key, (row, authors)), values in zip(rows.items(), scores, strict=True):
            yield Published(
                f"table3/{corpus}_{key}",
                (f"Table 3: SPNet-L, {row}",),
                authors,
                _scores(*values),
                FINETUNE_HOURS["L"][corpus],
            )


def _table3_swin_b() -> Iterator[Published]:
    # Pre-training (1) / (2), the authors' folder, metrics on CUHK-SYSU and on PRW.
    rows: dict[str, tuple] = {
        "scratch": ("- / -", "baseline", (69.8, 71.8), (20.3, 68.7)),
        "lup": ("SOLIDER LUP / -", "baseline", (88.0, 89.4), (38.1, 81.3)),
        "lup_coco": ("SOLIDER LUP / SOLIDER COCO", "solider_finetune", (88.0, 89.4), (38.1, 81.3)),
        "in1k": ("Classifier IN1k / -", "baseline", (94.2, 95.0), (49.7, 85.8)),
        "in1k_coco": (
            "Classifier IN1k / SOLIDER COCO", "solider_finetune", (94.0, 94.8), (49.7, 86.1)
        ),
        "oc_in1k": ("Classifier IN1k / Ours-OC COCO", "ours_finetune", (94.4, 95.2), (52.6, 88.7)),
        "qc_lup": ("SOLIDER LUP / Ours-QC COCO", "ours_finetune", (95.1, 95.8), (53.0, 88.3)),
        "qc_in1k": ("Classifier IN1k / Ours-QC COCO", "ours_finetune", (95.8, 96.3), (54.2, 89.0)),
        "oc_lup": ("", "ours_finetune", None, None),
    }  # fmt: skip
    for key in ("oc_in1k", "oc_lup", "qc_in1k", "qc_lup"):
        pathway, _, init = key.partition("_")
        yield Published(
            f"table3_swin_b/pretrain_{key}",
            ("Table 3, Swin-B: pre-train",),
            f"comparison/pretrain/coco_{pathway}_swin-b_bb-lr_{init}",
            hours=PRETRAIN_HOURS["L"][pathway],
            derived=LIKE_L,
        )
    ratio = PRETRAIN_HOURS["L"]["oc"] / PRETRAIN_HOURS["S"]["oc"]
    for column, (corpus, short) in enumerate(CORPORA.items()):
        for key, (row, folder, *scores) in rows.items():
            yield Published(
                f"table3_swin_b/{corpus}_{key}",
                (f"Table 3: Swin-B, {row}",) if row else (),
                f"comparison/{folder}/{short}_{key}",
                _scores(*scores[column]) if scores[column] else {},
                round(FINETUNE_HOURS["S"][corpus] * ratio, 1),
                SWIN_FINETUNE,
            )


# Table 5 and the rows that repeat it.
_SPNET_S = {
    "cuhk_sysu": {
        "classifier": _scores(91.9, 93.2, 95.8, 83.2),
        "oc": _scores(92.8, 94.1, 96.3, 83.9),
        "qc": _scores(93.3, 94.1, 95.9, 84.9),
        "random": {"mAP": 69.8, "gt_mAP": 85.8, "AP50": 47.8},
    },
    "prw": {
        "classifier": _scores(52.7, 86.6, 56.6, 88.8),
        "oc": _scores(54.5, 88.8, 57.6, 89.1),
        "qc": _scores(55.6, 89.5, 58.7, 88.9),
        "random": {"mAP": 22.3, "gt_mAP": 28.7, "AP50": 66.8},
    },
}


def _table5() -> Iterator[Published]:
    for pathway in PATHWAYS:
        yield Published(
            f"table5/pretrain_{pathway}",
            ("Table 4: SPNet-S, pre-train",),
            f"baseline/pretrain/coco_{pathway}_cnt",
            hours=PRETRAIN_HOURS["S"][pathway],
        )
    for corpus, metrics in _SPNET_S.items():
        short = CORPORA[corpus]
        dashed = ("Figure 6: baseline",) if corpus == "cuhk_sysu" else ("Figure 7: baseline",)
        rows = {
            "random": (("Table 5: Random Init.",), ""),
            "classifier": (
                (
                    "Table 5: Classifier",
                    "Table 6: Baseline",
                    "Table 8: OC-FT",
                    "Table 9: FixedNorm Logits (-)",
                    *dashed,
                ),
                f"baseline/baseline/{short}_baseline",
            ),
            "oc": (
                ("Table 5: Ours-OC", "Table 6: OC Original"),
                f"baseline/finetune/{short}_oc_ft",
            ),
            "qc": (
                ("Table 5: Ours-QC", "Table 6: QC Original", "Table 8: OC-FT+PT"),
                f"baseline/finetune/{short}_qc_ft",
            ),
        }
        for key, (names, authors) in rows.items():
            hours = FINETUNE_HOURS["S"][corpus]
            yield Published(f"table5/{corpus}_{key}", names, authors, metrics[key], hours)


def _table6() -> Iterator[Published]:
    rows = {
        "oc_reid_only": ("Re-id Only", "bb-lr_reid-only", (91.5, 93.0), (51.9, 87.4)),
        "oc_reid_gt": ("OC Re-id GT", "oc_bb-lr-lwf_reid-gt", (92.4, 93.7), (55.7, 89.1)),
        "qc_reid_gt": ("QC Re-id GT", "qc_bb-lr-lwf_reid-gt", (93.2, 94.3), (55.1, 88.5)),
    }
    files = {
        "oc_reid_only": "coco_cnt_bb-lr_reid-only",
        "oc_reid_gt": "coco_oc_cnt_bb-lr-lwf_reid-gt",
        "qc_reid_gt": "coco_qc_cnt_bb-lr-lwf_reid-gt",
    }
    for key, (row, *_) in rows.items():
        yield Published(
            f"table6/pretrain_{key}",
            (f"Table 6: {row}, pre-train",),
            f"qc_oc/reid_pretrain/{files[key]}",
            hours=PRETRAIN_HOURS["S"][key[:2]],
            derived=LIKE_S,
        )
    for column, (corpus, short) in enumerate(CORPORA.items()):
        for key, (row, file, *scores) in rows.items():
            yield Published(
                f"table6/{corpus}_{key}",
                (f"Table 6: {row}",),
                f"qc_oc/reid_finetune/{short}_{file}_ft",
                _scores(*scores[column]),
                FINETUNE_HOURS["S"][corpus],
            )


def _table8() -> Iterator[Published]:
    ratio = 2 * PRETRAIN_HOURS["S"]["qc"] / PRETRAIN_HOURS["S"]["oc"]
    metrics = {
        "cuhk_sysu": ((80.8, 87.7), (77.4, 85.4)),
        "prw": ((54.0, 86.7), (54.1, 87.1)),
    }
    for corpus, (plain, pretrained) in metrics.items():
        hours = round(FINETUNE_HOURS["S"][corpus] * ratio, 1)
        for key, row, file, scores in (
            ("qc_finetune", "QC-FT", "baseline", plain),
            ("qc_finetune_pretrained", "QC-FT+PT", "qc_ft", pretrained),
        ):
            yield Published(
                f"table8/{corpus}_{key}",
                (f"Table 8: {row}",),
                f"baseline/qc/{CORPORA[corpus]}-qc_{file}",
                _scores(*scores),
                hours,
                QC_FINETUNE,
            )


def _table9() -> Iterator[Published]:
    rows = {
        "batchnorm_pos": ("BatchNorm Logits (+)", "pos-norm_bn", (90.4, 91.9), (49.8, 84.3)),
        "batchnorm_neg": ("BatchNorm Logits (-)", "neg-norm_bn", (91.2, 92.0), (42.2, 82.2)),
        "fixednorm_pos": ("FixedNorm Logits (+)", "pos-norm_fix", (91.1, 92.2), (52.6, 86.3)),
    }
    for column, (corpus, short) in enumerate(CORPORA.items()):
        for key, (row, file, *scores) in rows.items():
            doubtful = corpus == "cuhk_sysu" and key.endswith("_pos")
            yield Published(
                f"table9/{corpus}_{key}",
                (f"Table 9: {row}",),
                f"baseline/norm/{short}_baseline_{file}-logits",
                _scores(*scores[column]),
                FINETUNE_HOURS["S"][corpus],
                note="the authors' file lacks the switch to positive norms" if doubtful else "",
            )


# Percent of COCOPersons' labels.
NOISE_PERCENT = (20, 60, 100, 140, 180)


def _figure6() -> Iterator[Published]:
    for pathway in PATHWAYS:
        for percent in NOISE_PERCENT:
            yield Published(
                f"figure6/pretrain_{pathway}_p{percent}",
                (f"Figure 6: {pathway.upper()}, {percent} %, pre-train",),
                f"sample_ablation/pretrain/coco_{pathway}_cnt_p{percent}",
                hours=round(PRETRAIN_HOURS["S"][pathway] * 20 / 30, 1),
                derived=NOISE,
            )
    for pathway in PATHWAYS:
        for percent in NOISE_PERCENT:
            yield Published(
                f"figure6/cuhk_sysu_{pathway}_p{percent}",
                (f"Figure 6: {pathway.upper()}, {percent} %",),
                f"sample_ablation/finetune/cuhk_{pathway}_p{percent}",
                hours=FINETUNE_HOURS["S"]["cuhk_sysu"],
            )


# Name in our files, in the paper (Table 7) and in the authors' files.
LAYER_OPTIMIZATION = {
    "uniform_lr": ("Uniform LR", "bb-unfreeze"),
    "mixed_lr": ("Mixed LR", "bb-lr"),
    "mixed_lr_lwf": ("Mixed LR + LwF", "bb-lr-lwf"),
    "frozen": ("Frozen-BB", "bb-freeze"),
}


def _figure7() -> Iterator[Published]:
    for pathway in PATHWAYS:
        for key, (row, file) in LAYER_OPTIMIZATION.items():
            yield Published(
                f"figure7/pretrain_{pathway}_{key}",
                (f"Figure 7: {pathway.upper()}, {row}, pre-train",),
                f"qc_oc/opt_pretrain/coco_{pathway}_cnt_{file}",
                hours=PRETRAIN_HOURS["S"][pathway],
                derived="" if key == "mixed_lr" else LIKE_S,
            )
    for corpus, short in CORPORA.items():
        for pathway in PATHWAYS:
            for key, (row, file) in LAYER_OPTIMIZATION.items():
                # The paper plots PRW only.
                rows = (f"Figure 7: {pathway.upper()}, {row}",) if corpus == "prw" else ()
                yield Published(
                    f"figure7/{corpus}_{pathway}_{key}",
                    rows,
                    f"qc_oc/opt_finetune/{short}_{pathway}_{file}_ft",
                    _SPNET_S[corpus][pathway] if key == "mixed_lr" else {},
                    FINETUNE_HOURS["S"][corpus],
                )


# Experiment -> row, the authors' file (in baseline/weight_loading).
ARCHITECTURES = {
    "c0_share_d128": ("c0-share-d128, Baseline", "c0-share-d128_baseline"),
    "c0_share_d128_pt": ("c0-share-d128, PT", "c0-share-d128_ft"),
    "c0_sep_d128": ("c0-sep-d128, Baseline", "c0-sep-d128_baseline"),
    "c0_sep_d128_pt": ("c0-sep-d128, PT", "c0-sep-d128_ft"),
    "c2_share_d128": ("c2-share-d128, Baseline", "c2-share-d128_baseline"),
    "c2_share_d128_pt_rep": ("c2-share-d128, PT-Rep", "c2-share-d128_ft"),
    "c2_sep_d128": ("c2-sep-d128, Baseline", "c2-sep-d128_baseline"),
    "c2_sep_d128_pt_rep": ("c2-sep-d128, PT-Rep", "c2-sep-d128_ft"),
    "c2_sep_d2048": ("c2-sep-d2048, Baseline", "c2-sep-d2048_baseline"),
    "c2_sep_d2048_pt": ("c2-sep-d2048, PT", "c2-sep-d2048_ft"),
    "c2_sep_d2048_pt_rep": ("c2-sep-d2048, PT-Rep", "c2-sep-d2048_ft-all"),
}


def _figure8() -> Iterator[Published]:
    metrics = {
        "c0_share_d128": _SPNET_S["cuhk_sysu"]["classifier"],
        "c0_share_d128_pt": _SPNET_S["cuhk_sysu"]["qc"],
    }
    for key, (row, file) in ARCHITECTURES.items():
        yield Published(
            f"figure8/cuhk_sysu_{key}",
            (f"Figure 8: {row}",),
            f"baseline/weight_loading/cuhk_{file}",
            metrics.get(key, {}),
            FINETUNE_HOURS["S"]["cuhk_sysu"],
            "" if key in metrics else LIKE_S,
        )
    for corpus, short in CORPORA.items():
        yield Published(
            f"figure8/{corpus}_cascade2n",
            (),
            f"baseline/cascade/{short}_baseline_cascade2n",
            hours=FINETUNE_HOURS["S"][corpus],
            derived=LIKE_S,
        )


def _inference() -> Iterator[Published]:
    large = {"cuhk_sysu": _scores(96.4, 97.0), "prw": _scores(61.2, 90.9)}
    for corpus, short in CORPORA.items():
        yield Published(
            f"inference/{corpus}_spnet_s",
            ("Table 5: Ours-QC, evaluation",),
            f"inference/{short}_qc_ft",
            {k: _SPNET_S[corpus]["qc"][k] for k in ("mAP", "top1")},
            evaluate=True,
            note="the authors' file names a checkpoint that was pre-trained with LwF",
        )
        yield Published(
            f"inference/{corpus}_spnet_l",
            ("Table 3: SPNet-L, Ours-QC, evaluation",),
            f"inference/{short}_qc_final_r1024",
            large[corpus],
            evaluate=True,
            note="the authors' file names a checkpoint pre-trained with LwF and crops of 640",
        )
