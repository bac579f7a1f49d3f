"""``spnet-gallery search``: where a person of a picture, or of the gallery, appears."""

import argparse
import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from spnet_d2.cli.box_option import Box, box
from spnet_d2.cli.number_option import fraction, least_similarity, not_negative
from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.gallery.calibration import Calibration
from spnet_d2.gallery.finding import Sighting, find_person
from spnet_d2.ingestion import GalleryHome
from spnet_d2.ingestion.sources import parse_time
from spnet_d2.predictors.opened import OpenedPredictor
from spnet_d2.search.crop import scene_around
from spnet_d2.search.frames import read_image_bgr
from spnet_d2.search.query import box_warnings, clip_query_box
from spnet_d2.utils.atomic_io import write_json, write_text
from spnet_d2.visualization.found_page import FoundPage, Query

from .gallery_option import add_gallery


@dataclass
class Picture:
    """
    A picture of the command line.

    Attributes:
        file: image, or None for a row of the gallery.
        person: row of the gallery.
        negative: it is not the person.
        box: x, y, w, h; None: the whole picture is the person.
        detection: instead of a box: the n-th person that the model finds there, best first, from 1.
    """

    file: Path | None = None
    person: int | None = None
    negative: bool = False
    box: Box | None = None
    detection: int | None = None


@dataclass
class _Pictures:
    all: list[Picture] = field(default_factory=list)


class _Add(argparse.Action):
    """``--query``, ``--not``, ``--person``, ``--not-person``: one more picture."""

    def __call__(self, parser, namespace, value, option_string=None):
        negative = str(option_string).startswith("--not")
        key = "person" if str(option_string).endswith("person") else "file"
        pictures = getattr(namespace, self.dest) or _Pictures()
        pictures.all.append(Picture(negative=negative, **{key: value}))
        setattr(namespace, self.dest, pictures)


class _Where(argparse.Action):
    """``--box``, ``--detection``: where in the picture before it."""

    def __call__(self, parser, namespace, value, option_string=None):
        pictures: _Pictures | None = getattr(namespace, "pictures", None)
        if pictures is None or pictures.all[-1].file is None:
            message = f"{option_string} belongs behind the --query or --not it is for"
            raise argparse.ArgumentError(self, message)
        setattr(pictures.all[-1], str(option_string).strip("-"), value)


def add(commands) -> None:
    parser = commands.add_parser(
        "search",
        help="find a person in the gallery",
        description="Several --query are pictures of one person, --not of other people. "
        "Without --box a picture is taken as a crop of the person, which finds less.",
    )
    option = parser.add_argument
    add_gallery(parser)
    for name, kind, text in (
        ("--query", Path, "a picture of the person"),
        ("--not", Path, "a picture of somebody else"),
        ("--person", int, "a row of the gallery, as search prints it"),
        ("--not-person", int, "a row that is not the person"),
    ):
        metavar = "IMAGE" if kind is Path else "ID"
        option(name, type=kind, action=_Add, dest="pictures", metavar=metavar, help=text)
    option(
        "--box",
        type=box,
        action=_Where,
        metavar="x,y,w,h",
        help="the person in the --query or --not before it",
    )
    option(
        "--detection",
        type=int,
        action=_Where,
        metavar="N",
        help="instead of --box: the n-th person that the model finds there",
    )
    option("--camera", action="append", metavar="NAME", help="search these cameras only")
    option(
        "--from",
        dest="since",
        metavar="TIME",
        help="search from then on, e.g. 2026-05-01T08:00:00+02:00",
    )
    option("--to", dest="before", metavar="TIME", help="search before then only")
    option("--min-score", type=fraction, help="least detection score")
    option(
        "--min-similarity",
        type=least_similarity,
        default=-1.0,
        help="least cosine similarity (%(default)s)",
    )
    option("--topk", type=int, default=50, metavar="N", help="show N hits (%(default)s)")
    option(
        "--every-row",
        action="store_true",
        help="show every row of a tracklet, not its best one alone",
    )
    option(
        "--false-alarms",
        type=not_negative,
        default=0.1,
        help="strangers to expect per search where the person is absent (%(default)s)",
    )
    option(
        "--output", type=Path, required=True, help="folder for found.json, found.csv, found.html"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> list[Sighting]:
    """
    Raises:
        UserError: something given can't be used.
    """
    given: _Pictures | None = args.pictures
    pictures = given.all if given else []
    if not any(not picture.negative for picture in pictures):
        raise GalleryError("Say who is looked for: --query IMAGE --box x,y,w,h, or --person ID.")
    if args.topk < 1:
        raise GalleryError(f"--topk must be 1 or more, found {args.topk}.")
    home = GalleryHome(args.gallery)
    where = Filter(
        cameras=args.camera,
        since=parse_time(args.since, "--from"),
        before=parse_time(args.before, "--to"),
        min_score=args.min_score,
    )
    queries = _embedded(home, pictures)
    positives = np.stack([q.embedding for q, p in zip(queries, pictures) if not p.negative])
    negatives = [q.embedding for q, p in zip(queries, pictures) if p.negative]
    hits, more = find_person(
        home.store,
        positives,
        np.stack(negatives) if negatives else None,
        where,
        args.topk,
        args.min_similarity,
        not args.every_row,
    )
    verdict = Verdict.of(home, where, args.false_alarms)
    _write(args.output, home, queries, hits, verdict)
    _print(home, hits, more, verdict, args.output)
    return hits


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        calibration: None: the gallery is not calibrated.
        rows: that the filter leaves.
        threshold: similarity below which it is probably nobody.
        false_alarms: expected per search at this threshold.
    """

    calibration: Calibration | None
    rows: int
    threshold: float | None
    false_alarms: float

    @classmethod
    def of(cls, home: GalleryHome, where: Filter, false_alarms: float) -> "Verdict":
        found = Calibration.load(home.path, home.settings.fingerprint)
        rows = home.store.count(where)
        threshold = None if found is None else found.threshold(false_alarms, rows)
        return cls(found, rows, threshold, false_alarms)

    def probability(self, hit: Sighting) -> float | None:
        if self.calibration is None:
            return None
        return float(self.calibration.probability(hit.similarity, self.rows))

    def sentence(self, hits: list[Sighting]) -> str:
        if self.threshold is None:
            return "Not calibrated: spnet-gallery calibrate tells how likely hits are right."
        above = sum(hit.similarity >= self.threshold for hit in hits)
        limit = f"{self.false_alarms:g} false alarms per search, similarity {self.threshold:.3f}"
        if above:
            return f"{above} of {len(hits)} hits are above the threshold ({limit})."
        return f"Probably nobody: no hit is above the threshold ({limit})."


def _embedded(home: GalleryHome, pictures: list[Picture]) -> list[Query]:
    """Pictures with their embeddings; the model is opened only if a picture needs it."""
    opened = None
    queries = []
    for picture in pictures:
        if picture.person is not None:
            person = home.store.fetch(np.array([picture.person]))
            name = f"row {picture.person}, {person.sources[0]}"
            embedding = person.embeddings[0].astype(np.float32)
            crop = home.thumbnails.read(str(person.thumbnails[0]))
            queries.append(Query(name, embedding, picture.negative, thumbnail=crop))
            continue
        assert picture.file is not None
        image = read_image_bgr(picture.file)
        if opened is None:
            opened = OpenedPredictor.again(home.model, home.settings.fingerprint).predictor
        box = _place(picture, image, opened)
        alone = picture.box is None and picture.detection is None
        scene, place = scene_around(image) if alone else (image, box)
        embedding = opened.embed(scene, [place])[0]
        queries.append(Query(picture.file.name, embedding, picture.negative, image, box))
    return queries


def _place(picture: Picture, image: np.ndarray, predictor: Any) -> Box:
    """xyxy of the person in a picture."""
    height, width = image.shape[:2]
    if picture.detection is not None:
        found = predictor.detect([image])[0]
        if not 1 <= picture.detection <= len(found):
            raise GalleryError(
                f"{picture.file}: the model finds {len(found)} people, so there is no number "
                f"{picture.detection}."
            )
        x1, y1, x2, y2 = map(float, found.boxes[picture.detection - 1])
        return x1, y1, x2, y2
    if picture.box is None:
        print(  # noqa: T201
            f"{picture.file}: no --box, so the whole picture is taken as the person. A scene with "
            "a box finds more."
        )
        return 0.0, 0.0, float(width), float(height)
    for warning in box_warnings(picture.box, (height, width)):
        print(f"{picture.file}: {warning}")  # noqa: T201
    return clip_query_box(picture.box, (height, width))


def _write(
    output: Path, home: GalleryHome, queries: list[Query], hits: list[Sighting], verdict: Verdict
) -> None:
    entries = [
        {"rank": n, **hit.to_json(), "probability": verdict.probability(hit)}
        for n, hit in enumerate(hits, start=1)
    ]
    content = {
        "gallery": str(home.path),
        "queries": [query.to_json() for query in queries],
        "verdict": verdict.sentence(hits),
        "threshold": verdict.threshold,
        "hits": entries,
    }
    write_json(output / "found.json", content, indent=2)
    write_text(output / "found.csv", _csv(entries))
    page = FoundPage(home, queries, hits, verdict.sentence(hits))
    page.write(output / "found.html", [verdict.probability(hit) for hit in hits])


def _csv(entries: list[dict]) -> str:
    columns = ["rank", "id", "similarity", "probability", "camera", "time", "source", "frame"]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*columns, "x", "y", "w", "h", "score", "tracklet", "rows"])
    for e in entries:
        row = [e[c] for c in columns]
        writer.writerow([*row, *e["box_xywh"], e["score"], e["tracklet"], e["rows"]])
    return text.getvalue()


def _print(
    home: GalleryHome, hits: list[Sighting], more: bool, verdict: Verdict, output: Path
) -> None:
    rows = []
    for n, hit in enumerate(hits[:20], start=1):
        chance = verdict.probability(hit)
        when = home.when(hit)
        likely = "" if chance is None else f"{chance:.0%}"
        rows.append((n, hit.id, f"{hit.similarity:.3f}", likely, hit.camera, when, hit.source))
    print(tabulate(rows, ["", "id", "similarity", "likely", "camera", "when", "source"]))  # noqa: T201
    if more or len(hits) > 20:
        print("... and more")  # noqa: T201
    print(verdict.sentence(hits))  # noqa: T201
    print(output / "found.html")  # noqa: T201
