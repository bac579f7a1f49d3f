"""docs/experiments.md: all experiments of the paper, one table per table or figure of the paper."""

from collections.abc import Mapping

from spnet_d2.experiments.index import Index
from spnet_d2.experiments.tables import markdown_table

INTRODUCTION = """\
# Experiments of the paper

<!-- Written by: python tools/reproduce.py --list --markdown > docs/experiments.md -->

One row per experiment. Its name is its config, and `python tools/reproduce.py NAME` runs it with
the pre-training that it starts from. Metrics are mAP / top-1 in percent, on CUHK-SYSU with protocol
`G100`, on PRW with `test`. **paper** is what was published; **ours** is empty until a run has
filled it. Runs of the authors' code differ by about half a point of mAP from one another.

GPU hours are for one A100 and for the experiment alone, without its pre-training. A star marks
those derived from the paper's Table 4, which has the others.
"""

# Folder of the configs -> heading and remarks.
SECTIONS = {
    "table1": (
        "Table 1: SPNet-L with ResNet-50",
        "The paper gives 27.6 frames per second for this model on PRW, on one A100.",
    ),
    "table3": ("Table 3, top: SPNet-L with ConvNeXt-B", ""),
    "table3_swin_b": ("Table 3, bottom: SPNet-L with SOLIDER's Swin-B", ""),
    "table5": (
        "Table 5: SPNet-S with ConvNeXt-T",
        "The first lines of the configs also have this table's GT mAP and AP@0.5.",
    ),
    "table6": ("Table 6: re-id loss in pre-training", ""),
    "table8": ("Table 8: query-centric fine-tuning", ""),
    "table9": (
        "Table 9: logits",
        "The authors' CUHK-SYSU configs of the (+) rows lack the switch to positive norms, so the\n"
        "published metrics of these rows are doubtful.",
    ),
    "figure6": (
        "Figure 6: label noise",
        "The paper only plots this figure, on CUHK-SYSU: QC is above OC everywhere. With 20 % of\n"
        "the labels QC is still slightly above the baseline without pre-training, and OC is below\n"
        "it. 100 % leaves out images with a single person, so it is not Table 5's pre-training.",
    ),
    "figure7": ("Figure 7: layer optimisation", "The paper only plots this figure, on PRW."),
    "figure8": ("Figure 8: architecture", "The paper only plots this figure, on CUHK-SYSU."),
    "inference": (
        "Evaluation of trained models",
        "The authors' configs name checkpoints that were pre-trained with LwF (SPNet-L's also\n"
        "with crops of 640), unlike the paper's text.",
    ),
}


def markdown_page(index: Index, done: Mapping[str, Mapping[str, float]]) -> str:
    """
    The page as Markdown.

    Args:
        index: all experiments.
        done: metrics in percent of those that were run, by experiment.
    """
    parts = [INTRODUCTION]
    for folder, (heading, remarks) in SECTIONS.items():
        rows = [e for e in index if e.name.partition("/")[0] == folder]
        texts = [f"## {heading}", remarks, markdown_table(rows, done)]
        parts.append("\n\n".join(text for text in texts if text) + "\n")
    return "\n".join(parts)
