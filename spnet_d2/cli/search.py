"""Find a person in a folder of images or in a video.

    python tools/search.py --query scene.jpg --box 412,180,64,170 --gallery video.mp4 \\
        --every 10 --output outputs/search

The box is left, top, width, height in pixels of the upright image: turned as its EXIF orientation
says, as viewers show it. So are all boxes of the results. Written to --output: matches.json (the
query and its matches, most similar first), search.png (an image of them) and gallery.npz (everyone
found; give it as --gallery to search the same frames again at once). Without --config-file and
--weights, --exported, or --detector and --reid, the model of `make demo` is used, and before that
has run, the starter weights (docs/starter.md). Settings of an SPNet may follow at the end as KEY
VALUE pairs.

Images of a folder are taken in natural order (frame2 before frame10); sub-folders, videos in a
folder and other files are counted, not searched. When a search is stopped, the same command goes on
from what was done. An image whose file is gone or changed is marked in search.png.

With MODEL.SPNET.TEST_PATHWAY QC, which models of query-centric training have by themselves, each
frame is searched for the query alone. That leaves no gallery.npz: another query finds other boxes.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

from spnet_d2.cli.box_option import box, join_box
from spnet_d2.cli.number_option import finite, least_similarity
from spnet_d2.errors import exit_status
from spnet_d2.predictors.opened import OpenedPredictor
from spnet_d2.predictors.options import add_predictor_options
from spnet_d2.search import (
    Match,
    SearchInputError,
    box_warnings,
    clip_query_box,
    gallery_for,
    open_gallery,
    read_image_bgr,
)
from spnet_d2.search.found import DRAWING, REPORT, Found, SceneFilter, make_folder
from spnet_d2.search.suggestion import Suggestion, find_suggestion
from spnet_d2.utils.text import make_output_safe

logger = logging.getLogger(__name__)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("--query", type=Path, required=True, help="image that shows the person")
    option("--box", type=box, required=True, metavar="x,y,w,h", help="the person's box in it")
    option("--gallery", type=Path, required=True, help="folder of images, video, or gallery.npz")
    option("--output", type=Path, required=True, help="folder for the results")
    option("--topk", type=int, default=10, metavar="N", help="show N matches (%(default)s)")
    every = "take each N-th frame (default: all)"
    option("--every", type=int, metavar="N", help=every)
    least = "least cosine similarity (%(default)s)"
    option("--min-similarity", type=least_similarity, default=-1.0, help=least)
    scene = "leave out frames whose score as a scene is lower (a model with a gallery filter)"
    option("--scene-threshold", type=finite, metavar="SCORE", help=scene)
    untrained = "search even where the weights don't cover the whole model"
    option("--allow-untrained", action="store_true", help=untrained)
    add_predictor_options(parser)
    args = parser.parse_args(join_box(sys.argv[1:] if argv is None else argv))
    if args.min_score is not None and not 0 <= args.min_score <= 1:
        parser.error(f"--min-score must lie between 0 and 1, found {args.min_score}")
    if args.topk < 1:
        parser.error(f"--topk must be 1 or more, found {args.topk}")
    return args


def run(args: argparse.Namespace) -> list[Match]:
    """
    Search and write the results.

    Raises:
        UserError: something given by the user can't be used.
    """
    # Whatever can be checked is checked before the slow part.
    image = read_image_bgr(args.query)
    box = clip_query_box(args.box, image.shape[:2])
    for warning in box_warnings(args.box, image.shape[:2]):
        logger.warning("%s: %s", args.query.name, warning)
    source = open_gallery(args.gallery, args.every, exclude=[args.output / DRAWING])
    if args.opts and (args.detector or args.exported):
        raise SearchInputError(
            "KEY VALUE settings are an SPNet's; --detector and --exported have their own files."
        )
    make_folder(args.output)
    opened = OpenedPredictor.of(args)
    query = opened.predictor.query(image, box)
    gallery = gallery_for(
        opened.predictor,
        source,
        query,
        opened.min_score,
        args.every,
        name=str(args.gallery),
        index=args.output / "gallery.npz",
    )
    scenes = None
    if args.scene_threshold is not None:
        whole, start = gallery, time.perf_counter()
        gallery = whole.of_likely_scenes(query, args.scene_threshold)
        seconds = time.perf_counter() - start
        scenes = SceneFilter(args.scene_threshold, whole.num_frames, len(whole), seconds)
    matches = gallery.rank(query.reid, args.topk, args.min_similarity)
    found = Found(args.query, image, box, gallery, matches, suggestion_of(opened.model), scenes)
    # What can fail for its looks comes after what was searched for.
    found.write_report(args.output)
    print("\n".join(found.lines()))
    if missing := found.draw(args.output):
        count = "1 frame" if len(missing) == 1 else f"{len(missing)} frames"
        print(f"{count} can't be shown, which is marked in {DRAWING}; first: {missing[0]}")
    print(f"results: {args.output / REPORT}, {args.output / DRAWING}")
    return matches


def suggestion_of(model: dict) -> Suggestion | None:
    """The threshold that the evaluation of an SPNet suggested; ``model``: how it was opened."""
    if model["config_file"] is None:
        return None
    # Not above: exported models do without Detectron2.
    from spnet_d2.config_reader import read_config

    cfg = read_config(model["config_file"], model["opts"])
    return find_suggestion(model["weights"] or cfg.MODEL.WEIGHTS, cfg.DATASETS.TEST)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("search", lambda: run(args))
