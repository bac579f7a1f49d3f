"""Start the server: which address, which token, which link to open."""

import secrets
import socket
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from spnet_d2.errors import UserError
from spnet_d2.ingestion import GalleryHome

from .app import create_app
from .jobs import Jobs
from .security import LOOPBACK, is_loopback
from .service import Service


@dataclass(frozen=True)
class ServeOptions:
    """
    Attributes:
        host, port: to listen on; port 0: any free one.
        allowed_hosts: further names the server answers to, such as a proxy's.
        user_header: header in which a proxy names the user.
        footage: folders that footage can be added from; none: adding and deleting are off.
        always_token: ask for the token on this machine, too.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    allowed_hosts: tuple[str, ...] = ()
    user_header: str | None = None
    footage: tuple[Path, ...] = ()
    always_token: bool = False


def serve(gallery: Path, options: ServeOptions) -> None:
    """
    Serve until stopped.

    Raises:
        UserError: no gallery there, or the address can't be listened on.
    """
    home = GalleryHome(gallery)
    listener = _listen(options)
    port = listener.getsockname()[1]
    token = None
    if options.always_token or not is_loopback(options.host):
        token = secrets.token_urlsafe(24)
    service = Service(home, can_add=bool(options.footage))
    jobs = Jobs(home.path, options.footage, service.refresh) if options.footage else None
    app = create_app(service, jobs, token, _hosts(options), options.user_header)
    shown = "127.0.0.1" if is_loopback(options.host) else options.host
    query = "" if token is None else f"?token={token}"
    print(f"Open http://{shown}:{port}/{query}   (Ctrl-C stops the server)", flush=True)  # noqa: T201
    # No access log: addresses hold the token, names of sources and rows.
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


def _hosts(options: ServeOptions) -> frozenset[str] | None:
    if is_loopback(options.host) or options.allowed_hosts:
        return frozenset(LOOPBACK) | {options.host, *options.allowed_hosts}
    # Whoever has the token reached the right server; its names are not known here.
    return None


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((options.host, options.port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise UserError(
            f"Can't listen on {options.host}:{options.port} ({error.strerror}); choose another "
            "--port, or 0 for any free one."
        ) from error
    return listener
