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
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from spnet_d2.cli.box_option import box
from spnet_d2.config_files import find_config_file
from spnet_d2.data.geometry import xyxy_to_xywh
from spnet_d2.data.own_images import write_own_image
from spnet_d2.errors import exit_status
from spnet_d2.export.predictor import OnnxPredictor
from spnet_d2.predictors.options import add_exported_options, add_two_stage_options, build_predictor
from spnet_d2.pretrained import default_files
from spnet_d2.search import (
    Gallery,
    Match,
    SearchInputError,
    box_warnings,
    clip_query_box,
    draw_search,
    gallery_for,
    open_gallery,
    read_image_bgr,
)
from spnet_d2.search.frames import describe_left_out
from spnet_d2.search.query import box_to_json
from spnet_d2.search.suggestion import Suggestion, find_suggestion
from spnet_d2.search.visualize import MAX_CARDS
from spnet_d2.utils.atomic_io import write_text
from spnet_d2.utils.text import make_output_safe, printable

logger = logging.getLogger(__name__)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--query", type=Path, required=True, help="image that shows the person")
    parser.add_argument("--box", type=box, required=True, metavar="x,y,w,h", help="where in it")
    parser.add_argument(
        "--gallery", type=Path, required=True, help="folder of images, video, or gallery.npz"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--config-file", type=Path, help="default: the demo's or starter's")
    parser.add_argument("--weights", type=Path, help="default: those, or MODEL.WEIGHTS")
    add_exported_options(parser)
    add_two_stage_options(parser)
    parser.add_argument("--topk", type=int, default=10, help="most matches (%(default)s)")
    parser.add_argument(
        "--every", type=int, metavar="N", help="take each N-th frame (all, or all of gallery.npz)"
    )
    parser.add_argument(
        "--min-score", type=float, default=0.5, help="least detection score (%(default)s)"
    )
    parser.add_argument(
        "--min-similarity", type=float, default=-1.0, help="least cosine similarity (%(default)s)"
    )
    parser.add_argument(
        "--allow-untrained",
        action="store_true",
        help="search even where the weights don't cover the whole model",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="settings")
    args = parser.parse_args(_join_box(sys.argv[1:] if argv is None else argv))
    if not 0 <= args.min_score <= 1:
        parser.error(f"--min-score must lie between 0 and 1, found {args.min_score}")
    if not args.min_similarity < float("inf"):
        parser.error(f"--min-similarity must be a number, found {args.min_similarity}")
    if args.topk < 1:
        parser.error(f"--topk must be 1 or more, found {args.topk}")
    if len(args.opts) % 2:
        parser.error(f"settings are KEY VALUE pairs, found {len(args.opts)} words: {args.opts}")
    return args


def _join_box(argv: list[str]) -> list[str]:
    """``--box -5,10,20,40`` as ``--box=-5,...``: argparse takes that box for an option."""
    words = list(argv)
    if "--box" in words[:-1]:
        place = words.index("--box")
        words[place : place + 2] = [f"--box={words[place + 1]}"]
    return words


def load_config(args: argparse.Namespace):
    """The config and the path of the weights; without any, the demo's, else the starter's."""
    # Not above: exported models do without Detectron2.
    from spnet_d2.config_reader import ConfigError, read_config

    config_file, weights = args.config_file, args.weights
    if config_file is None and weights is None:
        config_file, weights = default_files()
    elif config_file is None:
        if not weights.is_file():
            raise SearchInputError(f"No weight file at {weights.absolute()}; check --weights.")
        # Of a converted checkpoint, or of a training run.
        config_file = weights.with_suffix(".yaml")
        if not config_file.is_file():
            config_file = weights.parent / "config.yaml"
    config_file = Path(find_config_file(config_file))
    if not config_file.is_file():
        raise SearchInputError(
            f"No config file at {config_file.absolute()}; give --config-file. A training run "
            "writes config.yaml into its output folder."
        )
    try:
        cfg = read_config(config_file, args.opts)
    except ConfigError as error:
        raise SearchInputError(str(error)) from error
    # The model drops what it is unsure of, too.
    heads = cfg.MODEL.ROI_HEADS
    heads.SCORE_THRESH_TEST = min(heads.SCORE_THRESH_TEST, args.min_score)
    return cfg, str(weights or cfg.MODEL.WEIGHTS)


def run(args: argparse.Namespace) -> list[Match]:
    """
    Search and write the results.

    Raises:
        SearchInputError: something given by the user can't be used.
    """
    # Whatever can be checked is checked before the slow part.
    image = read_image_bgr(args.query)
    box = clip_query_box(args.box, image.shape[:2])
    for warning in box_warnings(args.box, image.shape[:2]):
        logger.warning("%s: %s", args.query.name, warning)
    source = open_gallery(args.gallery, args.every, exclude=[args.output / "search.png"])
    predictor, training = predictor_maker(args)(args)
    query = predictor.query(image, box)
    gallery = gallery_for(
        predictor,
        source,
        query,
        args.min_score,
        args.every,
        name=str(args.gallery),
        index=args.output / "gallery.npz",
    )
    matches = gallery.rank(query.reid, args.topk, args.min_similarity)
    suggestion = find_suggestion(*training) if training else None

    # What can fail for its looks comes after what was searched for.
    report = make_report(args, box, gallery, matches, suggestion)
    write_text(
        args.output / "matches.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    )
    show(gallery, matches, suggestion)
    draw(args, image, box, gallery, matches)
    print(f"results: {args.output / 'matches.json'}, {args.output / 'search.png'}")
    return matches


def predictor_maker(args: argparse.Namespace) -> Callable[[argparse.Namespace], tuple[Any, Any]]:
    """Function that makes the predictor that the options name."""
    if args.exported:
        return make_exported
    return make_two_stage if args.detector or args.reid else make_spnet


def make_two_stage(args: argparse.Namespace) -> tuple[Any, None]:
    """A detector with a re-id model."""
    if args.opts:
        raise SearchInputError("KEY VALUE settings are an SPNet's; --detector has its YAML file.")
    if args.detector is None:
        raise SearchInputError("--reid goes with --detector YAML (docs/two_stage.md).")
    predictor = build_predictor(args)
    make_folder(args.output)
    return predictor, None


def make_spnet(args: argparse.Namespace):
    """The model as it was trained; and its weights and test sets, which tell of its evaluation."""
    cfg, weights = load_config(args)
    make_folder(args.output)
    predictor = build_spnet(cfg, weights=weights, allow_untrained=args.allow_untrained)
    return predictor, (weights, cfg.DATASETS.TEST)


def build_spnet(cfg, **options):
    """Build and load it, which needs PyTorch and Detectron2."""
    from spnet_d2.search import PersonSearchPredictor

    return PersonSearchPredictor(cfg, **options)


def make_exported(args: argparse.Namespace) -> tuple[OnnxPredictor, None]:
    """The exported model."""
    if args.config_file or args.weights or args.opts:
        raise SearchInputError(
            "--exported is a model with all of its settings; leave out --config-file, --weights "
            "and KEY VALUE."
        )
    predictor = OnnxPredictor(args.exported, args.runtime)
    predictor.min_score = min(predictor.min_score, args.min_score)
    make_folder(args.output)
    return predictor, None


def make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Not only there, but to be written to.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise SearchInputError(f"Cannot write to the folder {folder}: {error}") from error


def make_report(
    args: argparse.Namespace,
    box,
    gallery: Gallery,
    matches: list[Match],
    suggestion: Suggestion | None,
) -> dict:
    """Content of matches.json."""
    return {
        "boxes": "pixels of the upright image (EXIF orientation applied), from its top left corner",
        "query": {"file": str(args.query), **box_to_json(box)},
        "gallery": {
            "source": gallery.source,
            "frames": gallery.num_frames,
            "people": len(gallery),
            "every": gallery.every,
            "min_score": gallery.min_score,
            "skipped": gallery.skipped.tolist(),
            "left_out": json.loads(gallery.left_out),
        },
        "suggested_min_similarity": suggestion and suggestion.similarity,
        "matches": [match.to_json() for match in matches],
    }


def show(gallery: Gallery, matches: list[Match], suggestion: Suggestion | None) -> None:
    """Print the table."""
    print(f"{len(gallery)} people in {gallery.num_frames} frames of {gallery.source}")
    if len(gallery.skipped):
        print(f"{len(gallery.skipped)} unreadable images were skipped")
    left_out = json.loads(gallery.left_out)
    if left_out:
        print(f"not searched: {describe_left_out(left_out)}")
    if not matches:
        print("no match")
        return
    below = suggestion.similarity if suggestion else -1.0
    rows = [
        [
            m.rank,
            f"{m.similarity:.3f}{'*' if m.similarity < below else ' ' if suggestion else ''}",
            m.frame,
            _when(m),
            *np.rint(xyxy_to_xywh([m.box])[0]).astype(int),
        ]
        for m in matches
    ]
    headers = ["rank", "similarity", "frame", "where", "x", "y", "w", "h"]
    print(tabulate(rows, headers, disable_numparse=True, stralign="right"))
    if suggestion:
        number = sum(m.similarity < below for m in matches)
        print(
            f"{number} of {len(matches)} are below {below:.3f} (*), the suggested threshold of "
            f"{suggestion.source}; --min-similarity {below:.3f} leaves them out"
        )


def draw(args: argparse.Namespace, image, box, gallery: Gallery, matches: list[Match]) -> None:
    """Write search.png; images that are gone or changed are marked."""
    missing = []

    def images():
        shown = matches[:MAX_CARDS]
        for place, found in gallery.read_again((match.file, match.frame) for match in shown):
            if isinstance(found, SearchInputError):
                missing.append(str(found))
            yield place, found

    sheet = draw_search(image, box, matches, images(), query_name=args.query.name)
    write_own_image(args.output / "search.png", sheet)
    if missing:
        count = "1 frame" if len(missing) == 1 else f"{len(missing)} frames"
        print(f"{count} can't be shown, which is marked in search.png; first: {missing[0]}")


def _when(match: Match) -> str:
    return printable(Path(match.file).name) if match.time is None else f"{match.time:.2f} s"


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    make_output_safe()
    args = parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    return exit_status("search", lambda: run(args))
