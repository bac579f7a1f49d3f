"""``spnet-gallery index``: footage into a gallery, what is new of it."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from spnet_d2.gallery import GalleryError, GallerySettings
from spnet_d2.gallery.address import ENGINE_HELP
from spnet_d2.ingestion import (
    GalleryHome,
    Options,
    Progress,
    Source,
    index_sources,
    parse_source,
    read_cameras,
)
from spnet_d2.ingestion.home import exists
from spnet_d2.ingestion.ray_actors import run_actors
from spnet_d2.ingestion.run import SEGMENT_SECONDS
from spnet_d2.ingestion.sources import parse_time
from spnet_d2.ingestion.workers import run_processes, take_own_device
from spnet_d2.predictors.opened import OpenedPredictor
from spnet_d2.predictors.options import add_predictor_options
from spnet_d2.search.people import PersonDetections

from .gallery_option import add_gallery

_PROGRAM = "import sys; from spnet_d2.cli.gallery import main; sys.exit(main())"


def add(commands) -> None:
    parser = commands.add_parser(
        "index",
        help="add people of new footage",
        description="Index folders, videos and streams. Run it again for what is new, or after it "
        "was stopped; several processes may work on one gallery.",
    )
    add_gallery(parser, "made if it isn't there")
    _add_sources(parser)
    _add_work(parser)
    add_predictor_options(parser)
    parser.set_defaults(run=run)


def _add_sources(parser: argparse.ArgumentParser) -> None:
    """What is indexed."""
    option = parser.add_argument
    option(
        "--source",
        action="append",
        default=[],
        metavar="NAME=PLACE",
        help="a folder of images, a video, or a stream's address (rtsp://, http://)",
    )
    option(
        "--sources", type=Path, metavar="YAML", help="several sources in a file (docs/gallery.md)"
    )
    option(
        "--start",
        metavar="TIME",
        help="time of --source's first frame, e.g. 2026-05-01T08:00:00+02:00",
    )
    option("--camera", metavar="NAME", help="camera of --source (default: the source's name)")
    option(
        "--fps",
        type=float,
        help="frames of --source to take per second (default: as before, else 1)",
    )


def _add_work(parser: argparse.ArgumentParser) -> None:
    """What is kept, and who shares the work."""
    option = parser.add_argument
    option("--engine", default="exact", help=f"store of a new gallery: {ENGINE_HELP} (%(default)s)")
    option(
        "--segment",
        type=float,
        default=SEGMENT_SECONDS,
        metavar="SECONDS",
        help="length of a unit of work (%(default)g)",
    )
    option(
        "--per-tracklet",
        type=int,
        default=3,
        metavar="N",
        help="pictures kept of each tracklet (%(default)s)",
    )
    option("--every-detection", action="store_true", help="keep all pictures of each tracklet")
    option(
        "--drop-removed",
        action="store_true",
        help="remove people of images that are gone from their folder",
    )
    option(
        "--num-gpus",
        type=int,
        default=0,
        metavar="N",
        help="N processes share the work, each on a GPU of its own (on its share of the cores, "
        "where there are none)",
    )
    option(
        "--ray",
        metavar="ADDRESS",
        help="actors of this Ray cluster (local, auto or an address) share the work: "
        "--num-gpus of them, by default one for each GPU",
    )


def run(args: argparse.Namespace) -> Progress | None:
    """
    Raises:
        UserError: something given can't be used; what was indexed stays.
    """
    if args.num_gpus < 0:
        raise GalleryError(f"--num-gpus is 0 or more, found {args.num_gpus}.")
    sources = _sources(args)
    rank = take_own_device()
    if (args.num_gpus > 1 or args.ray) and rank is None:
        if not exists(args.gallery):
            # Here, so that mistakes are told once.
            open_home(args)[0].close()
        if args.ray:
            run_actors(_again, args.argv, args.num_gpus, args.ray)
        else:
            run_processes([sys.executable, "-c", _PROGRAM, *args.argv], args.num_gpus)
        return None
    per_tracklet = 0 if args.every_detection else args.per_tracklet
    options = Options(per_tracklet, args.segment, args.drop_removed)
    home, predictor = open_home(args)

    def detect(image: np.ndarray) -> PersonDetections:
        return predictor.detect([image])[0]

    try:
        # Not only for terminals: logs and the web page read it, at longer intervals.
        with _bar(rank or 0) as bar:
            progress = Progress(show=lambda progress: _show(bar, progress))
            # Warnings on lines of their own, not behind the bar.
            with logging_redirect_tqdm():
                index_sources(home, sources, detect, options, progress)
        print(  # noqa: T201
            f"{progress.frames} frames, {progress.found} people found, {progress.rows} pictures "
            f"added in {progress.seconds:.0f} s; the gallery has {home.store.count()}."
        )
        return progress
    finally:
        home.close()


def _again(words: Sequence[str]) -> int:
    """The command in another process."""
    from spnet_d2.cli.gallery import main

    return main(list(words))


def _bar(rank: int) -> tqdm:
    interval = 0.2 if sys.stderr.isatty() else 2.0
    return tqdm(unit=" frames", mininterval=interval, position=rank)


def open_home(args: argparse.Namespace) -> tuple[GalleryHome, Any]:
    """
    The gallery, made if it isn't there, and the predictor that it is or will be made with.

    Raises:
        UserError: the gallery was made with another model or a higher score floor, or something
            can't be used.
    """
    there = exists(args.gallery)
    named = args.config_file or args.weights or args.detector or args.exported
    if there and not named:
        home = GalleryHome(args.gallery)
        if args.min_score is not None:
            home.settings.check_score(args.min_score, str(home.path))
        return home, OpenedPredictor.again(home.model, home.settings.fingerprint).predictor
    opened = OpenedPredictor.of(args)
    settings = GallerySettings(
        opened.predictor.embedding_dim, opened.predictor.fingerprint, opened.min_score
    )
    home = GalleryHome.create_or_open(args.gallery, settings, opened.model, args.engine)
    home.settings.check_serves(settings, str(home.path))
    return home, opened.predictor


def _sources(args: argparse.Namespace) -> list[Source]:
    if (args.start or args.camera) and len(args.source) > 1:
        raise GalleryError("--start and --camera are for one --source; write a --sources YAML.")
    sources = _given(args)
    sources += read_cameras(args.sources) if args.sources else []
    if not sources:
        raise GalleryError("Nothing to index: give --source NAME=PLACE or --sources cameras.yaml.")
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise GalleryError(f"Two sources are called {', '.join(twice)}: give them names.")
    return sources


def _given(args: argparse.Namespace) -> list[Source]:
    """Those of --source; what isn't said of one the gallery knows is as it was."""
    known = GalleryHome(args.gallery).sources() if exists(args.gallery) else {}
    start = parse_time(args.start, "--start")
    sources = []
    for text in args.source:
        source = parse_source(text)
        before = known.get(source.name, source)
        camera = before.camera if args.camera is None else args.camera
        fps = before.fps if args.fps is None else args.fps
        sources.append(
            replace(source, camera=camera, fps=fps, start=before.start if start is None else start)
        )
    return sources


def _show(bar: tqdm, progress: Progress) -> None:
    bar.update(progress.frames - bar.n)
    left = progress.seconds_left
    rest = "" if left is None else f", {left / 60:.0f} min left"
    bar.set_postfix_str(
        f"{progress.found} people, {progress.done} of {progress.units} units{rest}", refresh=False
    )
