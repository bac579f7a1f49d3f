"""The paper's tables as LaTeX, filled with any metrics."""

from collections.abc import Mapping, Sequence

from spnet_d2.experiments.results import HEADINGS


# Table -> rows: label, and the experiment on CUHK-SYSU and on PRW.
def _both(folder: str, rows: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    def name(key: str, corpus: str) -> str:
        there = key if "/" in key else f"{folder}/{key}"
        return there.replace("/", f"/{corpus}_", 1)

    return {label: (name(key, "cuhk_sysu"), name(key, "prw")) for label, key in rows.items()}


LATEX_TABLES: dict[str, dict[str, tuple[str, ...]]] = {
    "table1": _both("table1", {"SPNet-L, ResNet50": "resnet50"}),
    "table3": _both(
        "table3",
        {
            "SPNet-L, Classifier / IN1k": "classifier",
            "SPNet-L, Ours-OC / COCO": "oc",
            "SPNet-L, Ours-QC / COCO": "qc",
            "Swin-B, - / -": "table3_swin_b/scratch",
            "Swin-B, SOLIDER LUP / -": "table3_swin_b/lup",
            "Swin-B, SOLIDER LUP / SOLIDER COCO": "table3_swin_b/lup_coco",
            "Swin-B, Classifier IN1k / -": "table3_swin_b/in1k",
            "Swin-B, Classifier IN1k / SOLIDER COCO": "table3_swin_b/in1k_coco",
            "Swin-B, Classifier IN1k / Ours-OC COCO": "table3_swin_b/oc_in1k",
            "Swin-B, SOLIDER LUP / Ours-QC COCO": "table3_swin_b/qc_lup",
            "Swin-B, Classifier IN1k / Ours-QC COCO": "table3_swin_b/qc_in1k",
        },
    ),
    "table5": _both(
        "table5",
        {
            "Random Init.": "random",
            "Classifier": "classifier",
            "Ours-OC": "oc",
            "Ours-QC": "qc",
        },
    ),
    "table6": _both(
        "table6",
        {
            "Baseline": "table5/classifier",
            "Re-id Only": "oc_reid_only",
            "OC Re-id GT": "oc_reid_gt",
            "QC Re-id GT": "qc_reid_gt",
            "OC Original": "table5/oc",
            "QC Original": "table5/qc",
        },
    ),
    "table8": _both(
        "table8",
        {
            "OC-FT": "table5/classifier",
            "OC-FT+PT": "table5/qc",
            "QC-FT": "qc_finetune",
            "QC-FT+PT": "qc_finetune_pretrained",
        },
    ),
    "table9": _both(
        "table9",
        {
            "BatchNorm Logits (+)": "batchnorm_pos",
            "BatchNorm Logits (-)": "batchnorm_neg",
            "FixedNorm Logits (+)": "fixednorm_pos",
            "FixedNorm Logits (-)": "table5/classifier",
        },
    ),
}
# Table 8: rows of differences, (label, after, before), each below the row "after".
GAINS = {"table8": [("Gain from PT", "OC-FT+PT", "OC-FT"), ("Gain from PT", "QC-FT+PT", "QC-FT")]}
LATEX_METRICS = {"table5": ("mAP", "gt_mAP", "AP50")}


def latex_table(name: str, metrics_of: Mapping[str, Mapping[str, float]]) -> str:
    """
    A table of the paper as LaTeX (``booktabs``).

    One decimal, the best of every column bold, gains with their sign; a dash where nothing is
    known.

    Args:
        name: one of ``LATEX_TABLES``.
        metrics_of: percent by metric, by experiment.

    Raises:
        ValueError: no such table.
    """
    if name not in LATEX_TABLES:
        raise ValueError(f"no table {name!r}; expected one of {', '.join(LATEX_TABLES)}")
    metrics = LATEX_METRICS.get(name, ("mAP", "top1"))
    rows = {
        label: [metrics_of.get(experiment, {}).get(m) for experiment in pair_ for m in metrics]
        for label, pair_ in LATEX_TABLES[name].items()
    }
    columns = list(zip(*rows.values(), strict=True))
    best = [max((round(v, 1) for v in c if v is not None), default=None) for c in columns]
    lines = []
    for label, values in rows.items():
        lines.append(_latex_row(label, [_bold(v, b) for v, b in zip(values, best, strict=True)]))
        for gain, after, before in GAINS.get(name, ()):
            if after == label:
                lines.append(_latex_row(gain, _differences(values, rows[before])))
    n = len(metrics)
    head = " & ".join(HEADINGS[m] for m in metrics)
    return "\n".join(
        [
            rf"\begin{{tabular}}{{l{'c' * 2 * n}}}",
            r"\toprule",
            rf" & \multicolumn{{{n}}}{{c}}{{CUHK-SYSU}} & \multicolumn{{{n}}}{{c}}{{PRW}} \\",
            rf"Method & {head} & {head} \\",
            r"\midrule",
            *lines,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


def _latex_row(label: str, cells: Sequence[str]) -> str:
    return " & ".join([label, *cells]) + r" \\"


def _bold(value: float | None, best: float | None) -> str:
    if value is None:
        return "-"
    text = f"{value:.1f}"
    return rf"\textbf{{{text}}}" if round(value, 1) == best else text


def _differences(after: Sequence[float | None], before: Sequence[float | None]) -> list[str]:
    return [
        "-" if a is None or b is None else f"{round(a, 1) - round(b, 1):+.1f}"
        for a, b in zip(after, before, strict=True)
    ]
