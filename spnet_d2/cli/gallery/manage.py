"""``spnet-gallery info``, ``delete``, ``compact``, ``verify``, ``export``, ``import``."""

import argparse
from collections import Counter
from pathlib import Path

import numpy as np
from tabulate import tabulate

from spnet_d2.gallery import Filter, GalleryError
from spnet_d2.gallery.address import ENGINE_HELP
from spnet_d2.ingestion import GalleryHome
from spnet_d2.ingestion.archive import export_gallery, import_gallery
from spnet_d2.ingestion.sources import parse_time

from .gallery_option import add_gallery


def add(commands) -> None:
    _command(commands, "info", "what is in a gallery", info)
    delete = _command(commands, "delete", "remove people, with thumbnails and boxes", remove)
    option = delete.add_argument
    option("--source", metavar="NAME", help="delete everything of this source; the footage stays")
    option("--camera", metavar="NAME", help="delete what this camera shows")
    option(
        "--before",
        metavar="TIME",
        help="delete what is earlier, e.g. than 2026-05-01T08:00:00+02:00",
    )
    option(
        "--person",
        type=int,
        action="append",
        metavar="ID",
        help="delete this row, as search prints it; may be repeated",
    )
    _command(commands, "compact", "give back the space of deleted people", compact)
    _command(commands, "verify", "look for damage, and say what to do", verify)
    out = _command(commands, "export", "write a gallery into one ZIP", export)
    out.add_argument("--output", type=Path, required=True, metavar="ZIP")
    out.add_argument("--no-thumbnails", action="store_true", help="leave out the crops of people")
    into = _command(commands, "import", "make a gallery of such a ZIP", take_in)
    into.add_argument("--archive", type=Path, required=True, metavar="ZIP")
    into.add_argument("--engine", default="exact", help=f"{ENGINE_HELP} (%(default)s)")


def _command(commands, name: str, help: str, run) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    add_gallery(parser)
    parser.set_defaults(run=run)
    return parser


def info(args: argparse.Namespace) -> None:
    """Print what is in it."""
    home = GalleryHome(args.gallery)
    people, sources = home.store.count(), home.sources()
    counts = {name: home.store.count(Filter(sources=name)) for name in sources}
    rows = [
        (
            s.name,
            s.camera,
            s.kind,
            counts[s.name],
            s.start or "",
            s.place if s.available else "gone",
        )
        for s in sources.values()
    ]
    print(f"{people} pictures of people in {home.path}")  # noqa: T201
    print(tabulate(rows, ["source", "camera", "kind", "pictures", "start", "footage"]))  # noqa: T201
    model = {k: v for k, v in home.model.items() if v}
    print(f"model: {model}, fingerprint {home.settings.fingerprint}")  # noqa: T201
    frames, found = _looked_at(home)
    if people and found:
        print(f"{frames} frames, {found} people found, {people / found:.0%} kept")  # noqa: T201


def _looked_at(home: GalleryHome) -> tuple[int, int]:
    total: Counter[str] = Counter()
    for name in home.sources():
        scenes = home.scenes(name)
        total.update(frames=len(scenes), found=sum(len(s.boxes) for s in scenes))
    return total["frames"], total["found"]


def remove(args: argparse.Namespace) -> None:
    """
    Remove the people that the options name.

    Raises:
        GalleryError: nobody is named, or by a source and something else.
    """
    home = GalleryHome(args.gallery)
    before = parse_time(args.before, "--before")
    others = args.camera or before or args.person
    if args.source and others:
        raise GalleryError("--source removes all of a source: give it alone.")
    if args.source:
        count = home.delete_source(args.source)
    elif others:
        ids = None if args.person is None else np.array(args.person)
        count = home.delete(Filter(cameras=args.camera, before=before, ids=ids))
    else:
        raise GalleryError("Say who is to be removed: --source, --camera, --before or --person.")
    print(f"{count} pictures of people removed; {home.store.count()} are left.")  # noqa: T201


def compact(args: argparse.Namespace) -> None:
    home = GalleryHome(args.gallery)
    with home.writing() as store:
        home.commit(store)
        store.compact()


def verify(args: argparse.Namespace) -> None:
    """
    Print what is damaged.

    Raises:
        GalleryError: something is.
    """
    home = GalleryHome(args.gallery)
    problems = home.problems()
    for problem in problems:
        print(problem)  # noqa: T201
    if problems:
        raise GalleryError(f"{len(problems)} parts of {home.path} are damaged; see above.")
    print(f"{home.path} is whole: {home.store.count()} pictures of people.")  # noqa: T201


def export(args: argparse.Namespace) -> None:
    """
    Write a gallery into a ZIP, without cases and audit log.

    Raises:
        GalleryError: it can't be written.
    """
    home = GalleryHome(args.gallery)
    count = export_gallery(home, args.output, not args.no_thumbnails)
    size = args.output.stat().st_size / 1e6
    print(f"{count} pictures of people in {args.output}, {size:.1f} MB")  # noqa: T201


def take_in(args: argparse.Namespace) -> None:
    """
    Make a gallery of an exported one.

    Raises:
        GalleryError: the ZIP can't be used, or there is a gallery already.
    """
    home = import_gallery(args.archive, args.gallery, args.engine)
    print(f"{home.store.count()} pictures of people in {home.path}")  # noqa: T201
    home.close()
