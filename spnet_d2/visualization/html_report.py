"""A report of one evaluation as one HTML file: no scripts, no other files, no network."""

import os
import re
from collections.abc import Iterator, Mapping
from html import escape

import numpy as np

from spnet_d2.evaluation.ground_truth import GroundTruth
from spnet_d2.evaluation.protocols import RetrievalProtocol
from spnet_d2.evaluation.report import detection_metrics, format_thresholds, retrieval_metrics
from spnet_d2.evaluation.retrieval import RetrievalScores
from spnet_d2.evaluation.scoring import Evaluation
from spnet_d2.evaluation.threshold import suggest_threshold
from spnet_d2.utils.atomic_io import write_text
from spnet_d2.utils.text import printable
from spnet_d2.visualization import charts
from spnet_d2.visualization.crops import SIZE, CutOuts, Place
from spnet_d2.visualization.curves import representative_queries
from spnet_d2.visualization.recorder import RankedQuery, RankingRecorder

MISSED_SHOWN = 5

_LABELS = {"AP50": "AP@0.5", "recall50": "recall@0.5", "rAP50": "rAP@0.5"}

_STYLE = f"""
body {{ font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fafafa;
  max-width: 1500px; margin: 0 auto; padding: 1rem 1.5rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.2rem; margin-top: 2rem; }}
h3 {{ font-size: 1rem; margin: 1.2rem 0 .4rem; }}
table {{ border-collapse: collapse; background: #fff; }}
th, td {{ border: 1px solid #ddd; padding: .3rem .7rem; text-align: right; }}
tbody th {{ text-align: left; }} .note {{ color: #555; max-width: 60rem; }}
.warning {{ border-left: 4px solid #c77700; background: #fff4e0; padding: .5rem .8rem; }}
.plots {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }}
figure {{ margin: 0; background: #fff; border: 1px solid #ddd; padding: .6rem; }}
figure img {{ width: 100%; height: auto; }} figcaption {{ font-size: .85rem; color: #555; }}
.strip {{ display: flex; flex-wrap: wrap; gap: .4rem; align-items: flex-start; }}
.card {{ width: {SIZE[0] + 8}px; font-size: .75rem; line-height: 1.3; text-align: center;
  overflow-wrap: anywhere; }}
.image {{ width: {SIZE[0]}px; height: {SIZE[1]}px; border: 4px solid; display: flex;
  align-items: center; justify-content: center; background: #eee; }}
.query .image {{ border-color: #146ec8; margin-right: .6rem; }}
.hit .image {{ border-color: #2c9646; }} .hit b {{ color: #1d6b31; }}
.miss .image {{ border-color: #d73232; }} .miss b {{ color: #b31f1f; }}
.missed .image {{ border: 4px dashed #c77700; }} .missed b {{ color: #8f5500; }}
"""


def write_report(
    path: str | os.PathLike,
    source: str,
    truth: GroundTruth,
    protocol: RetrievalProtocol,
    evaluation: Evaluation,
    recorder: RankingRecorder,
    records: Mapping[int, dict],
    count: int = 5,
) -> dict[int, str]:
    """Write the report, atomically.

    Args:
        path: the HTML file.
        source: what was evaluated, for the heading.
        truth: the data set.
        protocol: the evaluated one.
        evaluation: of this protocol.
        recorder: the rankings it saw in the evaluation.
        records: dataset dicts by the number of the image, for the images' files.
        count: queries shown of the best, the median and the worst each.

    Returns:
        Why an image could not be shown, by the number of the image.
    """
    scores = evaluation.retrieval[protocol.name]
    among = scores.counted & (scores.present > 0)
    groups = representative_queries(scores.ap, among, count)
    shown = [q for queries in groups.values() for q in queries.tolist()]
    strips = {q: _Strip(q, truth, protocol, recorder.queries[q]) for q in shown}
    cut_outs = CutOuts(records, (place for strip in strips.values() for place in strip.places()))
    parts = [
        f"<h1>Person search: {escape(protocol.name)}</h1>",
        _note(f"{escape(source)}, {escape(evaluation.variant.name)} rules"),
        _metrics(evaluation, protocol.name),
        _note(f"{escape(format_thresholds(evaluation))}."),
        _plots(evaluation, protocol.name, recorder),
        "<h2>Queries</h2>",
        _note(_LEGEND),
        *_left_out(among, cut_outs.missing),
    ]
    for name, queries in groups.items():
        if len(queries):
            parts.append(f"<h2>{name.capitalize()} queries</h2>")
        for q in queries.tolist():
            parts += [f"<h3>{_heading(scores, q)}</h3>", strips[q].html(truth, cut_outs)]
    write_text(path, _page(printable(protocol.name), [printable(part) for part in parts]))
    return cut_outs.missing


_LEGEND = (
    "The query, then the most similar boxes with rank and similarity. "
    "Green, <b>hit</b>: the person, the most similar box of the image that overlaps enough. "
    "Red, <b>miss</b>: anybody or anything else, a second box of the person included. Dashed, "
    "<b>missed</b>: annotated in a gallery image where no box is a hit."
)


def _note(html: str) -> str:
    return f'<p class="note">{html}</p>'


def _left_out(among: np.ndarray, missing: Mapping[int, str]) -> Iterator[str]:
    """Notes on queries and images that are not shown."""
    if not among.all():
        yield _note(
            f"{int((~among).sum())} of {len(among)} queries have nobody to find in their gallery; "
            "they are not shown."
        )
    if missing:
        images = "1 image" if len(missing) == 1 else f"{len(missing)} images"
        first = escape(next(iter(missing.values())))
        yield f'<p class="warning">{images} could not be shown; first: {first}</p>'


def _heading(scores: RetrievalScores, query: int) -> str:
    rank = scores.first_hit_rank[query]
    first = f"first hit at rank {rank + 1}" if rank >= 0 else "no hit"
    return (
        f"Query {scores.annotation_ids[query]}: AP {100 * scores.ap[query]:.1f}, "
        f"{scores.hits[query]} of {scores.present[query]} found, {first} of "
        f"{scores.pool_size[query]:,} boxes"
    )


class _Strip:
    """One query's row of cards."""

    def __init__(
        self, query: int, truth: GroundTruth, protocol: RetrievalProtocol, found: RankedQuery
    ):
        self._own = _annotated(truth, protocol.queries[query])
        self._found = [
            (int(image), tuple(box)) for image, box in zip(found.images, found.boxes.tolist())
        ]
        self._similarities = found.similarities
        self._is_hit = found.is_hit
        self._missed = [_annotated(truth, number) for number in found.missed[:MISSED_SHOWN]]
        self._more_missed = len(found.missed) - len(self._missed)

    def places(self) -> Iterator[Place]:
        yield from (self._own, *self._found, *self._missed)

    def html(self, truth: GroundTruth, cut_outs: CutOuts) -> str:
        def card(kind: str, place: Place, text: str) -> str:
            uri = cut_outs.get(place)
            if uri is not None:
                shown = f'<img src="{uri}" alt="{kind}">'
            else:
                reason = "image missing" if place[0] in cut_outs.missing else "box is not finite"
                why = escape(cut_outs.missing.get(place[0], reason))
                shown = f'<span title="{why}">{reason}</span>'
            return (
                f'<div class="card {kind}"><div class="image">{shown}</div>{text}<br>'
                f"image {truth.image_ids[place[0]]}</div>"
            )

        cards = [card("query", self._own, "<b>query</b>")]
        ranked = zip(self._found, self._similarities, self._is_hit)
        for rank, (place, similarity, is_hit) in enumerate(ranked, 1):
            kind, sign = ("hit", "✓") if is_hit else ("miss", "✗")
            cards.append(card(kind, place, f"{rank}. <b>{sign} {kind}</b><br>{similarity:.3f}"))
        cards += [card("missed", place, "<b>! missed</b>") for place in self._missed]
        if self._more_missed:
            cards.append(f'<div class="card missed">and {self._more_missed:,} more missed</div>')
        return f'<div class="strip">{"".join(cards)}</div>'


def _annotated(truth: GroundTruth, number: int) -> Place:
    return int(truth.image_index[number]), tuple(truth.boxes[number].tolist())


def _metrics(evaluation: Evaluation, protocol: str) -> str:
    found, scores = evaluation.detection, evaluation.retrieval[protocol]
    retrieval = retrieval_metrics(evaluation, protocol)
    rows = "".join(
        f"<tr><th>{escape(_label(key))}</th><td>{100 * value:.2f}</td></tr>"
        for key, value in (detection_metrics(evaluation) | retrieval).items()
    )
    return (
        f"<table><thead><tr><th></th><th>percent</th></tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="note">{len(scores.ap):,} queries, {int(scores.counted.sum()):,} of them in the '
        f"means; {found.num_gt:,} annotated and {found.num_detections:,} detected people.</p>"
    )


def _label(key: str) -> str:
    """``gt_top5`` as "top-5, ground-truth boxes"; a metric not known here has its key's name."""
    name = key.removeprefix("gt_")
    label = _LABELS.get(name) or re.sub(r"^top(\d+)$", r"top-\1", name)
    return label if name == key else f"{label}, ground-truth boxes"


def _plots(evaluation: Evaluation, protocol: str, recorder: RankingRecorder) -> str:
    scores, gt_scores = evaluation.retrieval[protocol], evaluation.gt_retrieval.get(protocol)
    plots = [
        (
            "Precision and recall",
            charts.precision_recall(recorder),
            "Precision with which a recall is reached, 0 where it never is; the area is mAP.",
        ),
        ("CMC", charts.cmc(scores, gt_scores), "Queries with a hit among the first k boxes."),
        (
            "Similarities",
            charts.similarity_histograms(recorder, suggest_threshold(scores)),
            "Hits and all other ranked boxes of all queries, each scaled to 1.",
        ),
        (
            "Gallery size",
            charts.gallery_size(recorder),
            "Images that show the person stay, others are drawn at random; the last point is the "
            "whole gallery.",
        ),
    ]
    return (
        "<h2>Curves</h2>"
        + '<div class="plots">'
        + "".join(
            f'<figure><h3>{name}</h3><img src="{uri}" alt="{name}">'
            f"<figcaption>{caption}</figcaption></figure>"
            for name, uri, caption in plots
        )
        + "</div>"
    )


def _page(title: str, parts: list[str]) -> str:
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            # The browser holds the page to its promise.
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>Person search: {escape(title)}</title><style>{_STYLE}</style></head><body>",
            *parts,
            "</body></html>\n",
        ]
    )
