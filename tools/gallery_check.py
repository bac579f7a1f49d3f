"""How right a gallery is where the truth is known: tracklets, several queries, calibration.

    python tools/gallery_check.py --annotations mot15/annotations.json --images mot15/images \\
        --protocol mot15/retrieval/later.json --fps 25 --every 25 \\
        --detector yolox_nano.yaml --reid osnet_x0_25_msmt17.yaml

Boxes are the true ones, so only embeddings, linking and calibration count. The protocol must list
a gallery per query. Printed and written: tracklets and how pure they are; mAP of tracklets with all
of their pictures and with the best ones; mAP with one, two and three pictures of the person;
mAP with a crop alone; claimed false alarms per search beside true ones, and how many people are
found at that threshold.
"""

import argparse
import json
import re
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import spnet_d2  # noqa: F401  (before PyTorch: see spnet_d2/process.py)

# isort: split
import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from spnet_d2.data.tracklets import link_boxes, tracklet_quality
from spnet_d2.errors import UserError
from spnet_d2.gallery import GalleryError, GallerySettings, People, create_gallery
from spnet_d2.gallery.calibration import calibrate, collect_pairs, thresholds
from spnet_d2.gallery.finding import joined_query
from spnet_d2.gallery.people import unit_vectors
from spnet_d2.ingestion.look import best_rows, link_rules
from spnet_d2.predictors.opened import OpenedPredictor
from spnet_d2.predictors.options import add_predictor_options
from spnet_d2.search.crop import scene_around
from spnet_d2.search.frames import read_image_bgr


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--annotations", type=Path, required=True, help="person-search JSON")
    option("--images", type=Path, required=True, help="folder of its images")
    option(
        "--protocol", type=Path, required=True, help="protocol JSON with a gallery for each query"
    )
    option("--fps", type=float, required=True, help="images per second of the footage")
    option("--every", type=int, default=1, help="take each N-th image of a sequence")
    option("--per-tracklet", type=int, default=3, help="best pictures kept (%(default)s)")
    option("--output", type=Path, help="a JSON file with the metrics")
    add_predictor_options(parser)
    return parser.parse_args(argv)


@dataclass(frozen=True, eq=False)
class Boxes:
    """
    True boxes of a data set, ``N`` rows.

    Attributes:
        ids, images, people: (N,) of annotation, image and person.
        frames: (N,) place of the image in its sequence, before images were left out.
        sequences: (N,) number of the sequence.
        boxes: (N, 4) xyxy.
        vectors: (N, D) unit vectors.
        crops: (N, D) of queries, from their crop alone; others have zeros.
        tracklets: (N,) by linking.
    """

    ids: np.ndarray
    images: np.ndarray
    people: np.ndarray
    frames: np.ndarray
    sequences: np.ndarray
    boxes: np.ndarray
    vectors: np.ndarray
    crops: np.ndarray
    tracklets: np.ndarray


def read_boxes(args: argparse.Namespace, predictor, kept: set[int]) -> Boxes:
    """
    Embed and link the boxes of the images that are taken, and of those of the queries.

    Args:
        kept: annotations whose images are taken in any case.
    """
    content = json.loads(args.annotations.read_text())
    by_image = defaultdict(list)
    for a in content["annotations"]:
        if a["person_id"] >= 0 and not a.get("iscrowd"):
            by_image[a["image_id"]].append(a)
    sequences = defaultdict(list)
    for image in sorted(content["images"], key=lambda image: image["file_name"]):
        # The name without its number: images of one camera or clip.
        name = re.sub(r"\d+(?=\D*$)", "", image["file_name"])
        sequences[image.get("cam_id", -1), name].append(image)
    rows, vectors, crops, tracklets = [], [], [], []
    for number, images in enumerate(sequences.values()):
        taken = [
            (frame, image)
            for frame, image in enumerate(images)
            if frame % args.every == 0 or kept & {a["id"] for a in by_image[image["id"]]}
        ]
        found = []
        for frame, image in tqdm(taken, unit="image", mininterval=2):
            here = by_image[image["id"]]
            boxes = np.array([_xyxy(a["bbox"]) for a in here]).reshape(-1, 4)
            pixels = read_image_bgr(args.images / image["file_name"])
            embedded = _embedded(predictor, pixels, boxes)
            found.append((boxes, embedded))
            vectors.append(embedded)
            crops += [
                _of_crop(predictor, pixels, box) if a["id"] in kept else np.zeros_like(vector)
                for a, box, vector in zip(here, boxes, embedded)
            ]
            rows += [
                (a["id"], image["id"], a["person_id"], frame, number, *b)
                for a, b in zip(here, boxes)
            ]
        linked = link_boxes(
            [b for b, _ in found], [v for _, v in found], link_rules(args.fps / args.every)
        )
        first = 1 + max((t.max(initial=-1) for t in tracklets), default=-1)
        tracklets.append(np.concatenate([np.zeros(0, np.int64), *linked]) + first)
    table = np.array(rows)
    columns = (table[:, i].astype(np.int64) for i in range(5))
    return Boxes(
        *columns,
        table[:, 5:],
        np.concatenate(vectors),
        np.array(crops),
        np.concatenate(tracklets),
    )


def _embedded(predictor, pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    if not len(boxes):
        return np.zeros((0, predictor.embedding_dim))
    return unit_vectors(predictor.embed(pixels, boxes))


def _of_crop(predictor, pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(D,) of a person cut out, as a user has a crop."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = np.rint(box.clip(0, [width, height, width, height])).astype(int)
    scene, place = scene_around(pixels[y1 : max(y2, y1 + 1), x1 : max(x2, x1 + 1)])
    return _embedded(predictor, scene, np.array([place]))[0]


def _xyxy(box: list[float]) -> list[float]:
    x, y, w, h = box
    return [x, y, x + w, y + h]


def average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """Of a ranking, 0 to 1."""
    order = np.argsort(-scores, kind="stable")
    places = np.flatnonzero(right[order])
    return float(np.mean((np.arange(len(places)) + 1) / (places + 1))) if len(places) else 0.0


def by_tracklet(
    boxes: Boxes, rows: np.ndarray, similarities: np.ndarray, person: int
) -> tuple[np.ndarray, np.ndarray]:
    """Best similarity of each tracklet among rows, and whether most of it is the person."""
    _, groups = np.unique(boxes.tracklets[rows], return_inverse=True)
    best = np.full(groups.max(initial=-1) + 1, -2.0)
    np.maximum.at(best, groups, similarities)
    share = np.bincount(groups, boxes.people[rows] == person) / np.bincount(groups)
    return best, share > 0.5


def several_queries(boxes: Boxes, query: int, gallery: np.ndarray, count: int) -> np.ndarray:
    """Rows of the query and ``count - 1`` further pictures of the person outside the gallery."""
    own = np.flatnonzero(
        (boxes.people == boxes.people[query]) & ~np.isin(boxes.images, boxes.images[gallery])
    )
    own = own[own != query]
    # Spread in time: neighbouring frames say the same.
    chosen = own[np.linspace(0, len(own) - 1, count - 1).astype(int)] if len(own) else own
    return np.unique(np.array([query, *chosen.tolist()]))


def check(boxes: Boxes, queries: dict[int, list[int]], per_tracklet: int, fps: float) -> dict:
    """All metrics; similarities and rates as fractions."""
    quality = tracklet_quality(boxes.tracklets, boxes.people)
    kept = best_rows(boxes.tracklets, boxes.boxes[:, 3] - boxes.boxes[:, 1], per_tracklet)
    kept = np.isin(np.arange(len(boxes.ids)), kept)
    row_of = {int(i): row for row, i in enumerate(boxes.ids)}
    queried = [
        (row_of[i], np.flatnonzero(np.isin(boxes.images, images)))
        for i, images in queries.items()
        if i in row_of
    ]
    queried = [(q, g[g != q]) for q, g in queried if (boxes.people[g] == boxes.people[q]).any()]

    def mean_ap(count: int, only: np.ndarray, crop: bool = False) -> tuple[float, float]:
        found = []
        for query, gallery in queried:
            pictures = several_queries(boxes, query, gallery, count)
            vector = joined_query(boxes.crops[[query]] if crop else boxes.vectors[pictures])
            rows = gallery[only[gallery]]
            best, right = by_tracklet(
                boxes, rows, boxes.vectors[rows] @ vector, boxes.people[query]
            )
            found.append((average_precision(best, right), float(right[best.argmax()])))
        return tuple(np.mean(found, axis=0).tolist())

    everyone = np.ones(len(kept), bool)
    metrics = {
        "queries": len(queried),
        "rows": len(kept),
        "rows kept": int(kept.sum()),
        "tracklets": quality.tracklets,
        "people": quality.people,
        "purity": quality.purity,
        "mAP, top-1 of all rows": mean_ap(1, everyone),
        "mAP, top-1 of rows kept": mean_ap(1, kept),
        "mAP, top-1 with a crop alone": mean_ap(1, kept, crop=True),
        "mAP, top-1 with 2 pictures": mean_ap(2, kept),
        "mAP, top-1 with 3 pictures": mean_ap(3, kept),
    }
    return {**metrics, **_calibration(boxes, queried, kept, fps)}


def _calibration(boxes: Boxes, queried, kept: np.ndarray, fps: float) -> dict:
    rows = np.flatnonzero(kept)
    people = People.of(
        boxes.vectors[rows],
        boxes.boxes[rows],
        np.full(len(rows), 0.9),
        sources=boxes.sequences[rows].astype(str).astype(object),
        frames=(boxes.frames[rows] * 1000 / fps).astype(np.int64),
        tracklets=boxes.tracklets[rows],
    )
    settings = GallerySettings(boxes.vectors.shape[1], "check", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        with create_gallery(Path(folder) / "g", settings) as store:
            store.add(people)
            try:
                found = calibrate(store, collect_pairs(store))
            except GalleryError as error:
                return {"calibration": str(error)}
    claims = []
    for rate, _ in thresholds(found):
        alarms, seen = [], []
        for query, gallery in queried:
            rows = gallery[kept[gallery]]
            similarities = boxes.vectors[rows] @ boxes.vectors[query]
            best, right = by_tracklet(boxes, rows, similarities, boxes.people[query])
            threshold = found.threshold(rate, len(rows))
            alarms.append((best[~right] >= threshold).sum())
            seen.append((best[right] >= threshold).any())
        claims.append({"claimed": rate, "true": np.mean(alarms), "found": np.mean(seen)})
    return {"calibration": claims}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    try:
        queries = json.loads(args.protocol.read_text())["queries"]
        if not isinstance(queries, dict):
            raise UserError(f"{args.protocol} lists no gallery per query.")
        queries = {int(i): images for i, images in queries.items()}
        predictor = OpenedPredictor.of(args).predictor
        boxes = read_boxes(args, predictor, set(queries))
        metrics = check(boxes, queries, args.per_tracklet, args.fps)
    except (UserError, OSError) as error:
        raise SystemExit(f"gallery_check: {error}") from None
    claims = metrics["calibration"]
    print(tabulate([(k, v) for k, v in metrics.items() if k != "calibration"]))
    print(claims if isinstance(claims, str) else tabulate(claims, headers="keys", floatfmt=".3f"))
    if args.output:
        args.output.write_text(json.dumps(metrics, indent=1) + "\n")


if __name__ == "__main__":
    main()
