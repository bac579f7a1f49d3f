"""``spnet-gallery serve``: the web page over a gallery."""

import argparse
from pathlib import Path

from spnet_d2.errors import UserError

from .gallery_option import add_gallery


def add(commands) -> None:
    parser = commands.add_parser(
        "serve",
        help="start the web page",
        description="A web page over a gallery, for this machine. With another --host it is "
        "reachable from the network, and asks for the token of the printed link.",
    )
    option = parser.add_argument
    add_gallery(parser)
    option("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    option(
        "--port", type=int, default=8080, help="port to listen on, 0: any free one (%(default)s)"
    )
    option(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a further host name that requests may use, such as a proxy's",
    )
    option("--user-header", metavar="NAME", help="header with a proxy's user, for the audit log")
    option(
        "--footage",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="footage in this folder can be added from the page",
    )
    option("--token", action="store_true", help="require a token from this machine, too")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """
    Serve until stopped.

    Raises:
        UserError: a package is missing, or there is no gallery.
    """
    try:
        from spnet_d2.web.server import ServeOptions, serve
    except ImportError as error:
        raise UserError(
            f"The web page needs more packages ({error.name} is missing): "
            "pip install 'spnet_d2[web]'."
        ) from error
    serve(
        args.gallery,
        ServeOptions(
            host=args.host,
            port=args.port,
            allowed_hosts=tuple(args.allow_host),
            user_header=args.user_header,
            footage=tuple(path.resolve() for path in args.footage),
            always_token=args.token,
        ),
    )
