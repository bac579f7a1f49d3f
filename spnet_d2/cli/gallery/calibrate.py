"""``spnet-gallery calibrate``: what a similarity means in this gallery, without any label."""

import argparse
from typing import TYPE_CHECKING

from tabulate import tabulate

from spnet_d2.cli.number_option import not_negative
from spnet_d2.ingestion import GalleryHome

from .gallery_option import add_gallery

# SciPy and Matplotlib are imported where they are used: the other commands start without them.
if TYPE_CHECKING:
    from spnet_d2.gallery.calibration import Calibration


def add(commands) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="estimate false alarms and likelihoods from the gallery's own footage",
        description="From people of one frame, who are different ones, and tracklets, which are of "
        "one person: search then gives each hit's probability, and says when it is nobody's. "
        "Writes calibration.json and calibration.png into the gallery.",
    )
    add_gallery(parser)
    parser.add_argument(
        "--min-seconds",
        type=not_negative,
        default=2.0,
        help="least time between two pictures of one tracklet (%(default)g)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> "Calibration":
    """
    Raises:
        GalleryError: there are too few pairs, or the model can't tell these people apart.
    """
    from spnet_d2.gallery import calibration
    from spnet_d2.visualization.calibration_plot import draw_calibration

    home = GalleryHome(args.gallery)
    frames = {s.name: 1 / s.fps if s.kind == "folder" else 0.001 for s in home.sources().values()}
    pairs = calibration.collect_pairs(home.store, args.min_seconds, frames)
    found = calibration.calibrate(home.store, pairs)
    found.save(home.path)
    draw_calibration(home.path / "calibration.png", pairs, found)
    print(  # noqa: T201
        f"{found.num_same} pairs of one person, {found.num_strangers} of a person and a stranger; "
        f"{found.tracklets} tracklets"
    )
    rows = [(f"{rate:g}", f"{s:.3f}") for rate, s in calibration.thresholds(found)]
    print(tabulate(rows, ["false alarms per search", "similarity"]))  # noqa: T201
    print(home.path / "calibration.png")  # noqa: T201
    return found
