"""Person search models and what is published of them, one row each: the field's table.

Metrics of other methods are typed from their authors' papers or READMEs, or from the paper of
SPNet where that is said; those of SPNet are :mod:`.paper`'s. ``mAP / top-1`` in percent, with
detected boxes: CUHK-SYSU with 100 gallery images, PRW with all test frames.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tabulate import tabulate

from spnet_d2.experiments.paper import CORPORA, published

NAME = "field"
HEADERS = (
    "method",
    "backbone",
    "pre-training",
    "CUHK-SYSU",
    "PRW",
    "FPS",
    "code",
    "weights",
    "here",
)
IMAGENET = "ImageNet"
COCO_QC = "ImageNet, QC on COCOPersons"
# Of SPNet's paper, for all methods in its Table 1.
GPU_OF_SPEED = "A100"

_SEQNET = "https://github.com/serend1p1ty/SeqNet"
_COAT = "https://github.com/Kitware/COAT"
_GFN = "https://github.com/LukeJaffe/GFN"
_SPNET = "https://github.com/LLNL/spnet"


@dataclass(frozen=True)
class Method:
    """
    A published model.

    Attributes:
        name: of the method, with what is added to it.
        backbone: "" where not checked.
        pretraining: what its weights start from; "" where not checked.
        metrics: (mAP, top-1) by corpus.
        fps: frames per second on an A100, as SPNet's paper measured it.
        code: address of the authors' code; "" where none was looked at.
        weights: files that the authors publish; "" where none, or not checked.
        here: how its metrics come about in this package.
    """

    name: str
    backbone: str
    pretraining: str
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)
    fps: float | None = None
    code: str = ""
    weights: str = ""
    here: str = ""

    def scores(self, corpus: str) -> str:
        """ "mAP / top-1" on a corpus, "" where unknown."""
        return "{:.1f} / {:.1f}".format(*self.metrics[corpus]) if corpus in self.metrics else ""


def methods() -> list[Method]:
    """All rows: other methods, then SPNet."""
    return [*_others(), *_spnet()]


def _both(cuhk_sysu: tuple[float, float], prw: tuple[float, float]) -> dict:
    return {"cuhk_sysu": cuhk_sysu, "prw": prw}


def _others() -> Iterable[Method]:
    resnet, swin, files = "ResNet-50", "Swin-B", "epoch_19.pth, epoch_17.pth"
    scores = "convert_predictions --from seqnet, cws"
    trained = f"{scores}; seqnet/seqnet_CORPUS_resnet50"
    published_by: dict = {"code": _SEQNET, "weights": files, "here": trained}
    yield Method(
        "SeqNet", resnet, IMAGENET, _both((93.8, 94.6), (46.7, 83.4)), 12.2, **published_by
    )
    matched = {**published_by, "here": "convert_predictions --from seqnet, seqnet_cbgm"}
    yield Method("SeqNet + CBGM", resnet, IMAGENET, _both((94.8, 95.7), (47.6, 87.6)), **matched)
    # SPNet's Table 3 has three rows, without a config of its authors. The third has the results
    # that SOLIDER publishes of its own SeqNet.
    of_swin = f"{scores}; seqnet/seqnet_CORPUS_swin_b_lup"
    for row, metrics, here in (
        (1, _both((58.5, 59.1), (13.8, 55.9)), scores),
        (2, _both((88.8, 89.6), (45.1, 82.5)), scores),
        (3, _both((94.9, 95.5), (59.7, 86.8)), of_swin),
    ):
        yield Method("SeqNet", swin, f"SPNet's Table 3, SeqNet's row {row}", metrics, here=here)
    yield Method("SeqNet", "Swin-S", "SOLIDER", _both((95.5, 95.8), (59.8, 86.7)), here=scores)
    yield Method(
        "COAT", resnet, IMAGENET, _both((94.2, 94.7), (53.3, 87.4)), 11.1, _COAT,
        here="convert_predictions --from coat, cws",
    )  # fmt: skip
    yield Method(
        "PSTR", "PVTv2-B2", "", _both((95.2, 96.2), (56.5, 89.7)),
        here="convert_predictions --from pstr",
    )  # fmt: skip
    yield Method("LEAPS", "", "", _both((96.4, 96.9), (59.5, 89.7)))
    yield from _seqnext()


def _seqnext() -> Iterable[Method]:
    scores, large = "convert_predictions --from gfn, cws", "ConvNeXt-B"
    for name, backbone, metrics, fps, weights in (
        ("SeqNeXt", "ResNet-50", _both((94.1, 94.7), (50.8, 86.0)), None, ""),
        ("SeqNeXt (SPNet's Table 1)", "ResNet-50", _both((93.8, 94.3), (51.1, 85.8)), 22.3, ""),
        ("SeqNeXt + GFN", "ResNet-50", _both((94.7, 95.3), (51.3, 90.6)), None, ""),
        ("SeqNeXt", large, _both((96.1, 96.5), (57.6, 89.5)), None, ""),
        (
            "SeqNeXt + GFN", large, _both((96.4, 97.0), (58.3, 92.4)), None,
            "cuhk_final_convnext-base_e30.pt, prw_final_convnext-base_e30.pt",
        ),
    ):  # fmt: skip
        trunk = "convnext_b" if backbone == large else "resnet50"
        here = f"{scores}; seqnet/seqnext_CORPUS_{trunk}"
        if "+ GFN" in name:
            here = f"seqnet/seqnext_CORPUS_{trunk}_gfn, gfn_cws"
        yield Method(name, backbone, IMAGENET, metrics, fps, _GFN, weights, here)


# Our rows: model, backbone, pre-training, experiment's name with the corpus left open.
_OWN = (
    ("SPNet-L", "ResNet-50", IMAGENET, "table1/{}_resnet50"),
    ("SPNet-S", "ConvNeXt-T", IMAGENET, "table5/{}_classifier"),
    ("SPNet-S", "ConvNeXt-T", COCO_QC, "table5/{}_qc"),
    ("SPNet-L", "ConvNeXt-B", IMAGENET, "table3/{}_classifier"),
    ("SPNet-L", "ConvNeXt-B", COCO_QC, "table3/{}_qc"),
    ("SPNet-L", "Swin-B", "SOLIDER LUP", "table3_swin_b/{}_lup"),
    ("SPNet-L", "Swin-B", "SOLIDER LUP, QC on COCOPersons", "table3_swin_b/{}_qc_lup"),
    ("SPNet-L", "Swin-B", COCO_QC, "table3_swin_b/{}_qc_in1k"),
)


def _spnet() -> Iterable[Method]:
    metrics = {entry.name: entry.metrics for entry in published()}
    for name, backbone, pretraining, experiment in _OWN:
        known = {corpus: metrics[experiment.format(corpus)] for corpus in CORPORA}
        yield Method(
            name,
            backbone,
            pretraining,
            {corpus: (found["mAP"], found["top1"]) for corpus, found in known.items()},
            known["prw"].get("FPS"),
            _SPNET,
            here="reproduce " + experiment.format("CORPUS"),
        )


def _cells(method: Method, code: str) -> list[str]:
    metrics = [method.scores(corpus) for corpus in CORPORA]
    fps = "" if method.fps is None else f"{method.fps:.1f}"
    row = [method.name, method.backbone, method.pretraining, *metrics, fps, code]
    return [*row, method.weights, method.here]


def field_table() -> str:
    """The table for the terminal, without addresses."""
    rows = [_cells(m, m.code.rpartition("github.com/")[2]) for m in methods()]
    return tabulate(rows, HEADERS, disable_numparse=True)


def field_markdown() -> str:
    """The table of MODEL_ZOO.md."""
    lines = [f"| {' | '.join(HEADERS)} |", "|" + "---|" * len(HEADERS)]
    for method in methods():
        code = f"[{method.code.rpartition('/')[2]}]({method.code})" if method.code else ""
        lines.append("| " + " | ".join(_cells(method, code)) + " |")
    return "\n".join(lines)
