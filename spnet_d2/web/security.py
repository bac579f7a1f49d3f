"""Who may talk to the server, and what its pages may load.

A browser sends requests for any page that is open in it. So the server answers its own pages only,
under its own name (a foreign name that resolves to this machine is refused), and, unless it listens
on this machine alone, only those who know its token.
"""

import hmac
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "spnet_token"
# Names of this machine for itself.
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    # Pictures come from the server, or are made in the page (an upload's preview).
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Guard:
    """
    ASGI middleware that refuses foreign requests and adds the headers that keep pages apart.

    Args:
        app: what is guarded.
        token: what every request must carry, as the cookie that ``/?token=...`` sets, or as
            ``Authorization: Bearer``; None: nothing.
        hosts: names the server answers to, without port; None: any.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Collection[str] | None):
        self._app = app
        self._token = token
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        by_link = self._came_by_link(scope)
        refusal = self._refusal(scope, headers, by_link)
        app = self._app if refusal is None else refusal

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._add_headers(MutableHeaders(scope=message), scope, by_link)
            await send(message)

        await app(scope, receive, guarded)

    def _refusal(self, scope: Scope, headers: Headers, by_link: bool) -> JSONResponse | None:
        if self._hosts is not None and _name(headers.get("host", "")) not in self._hosts:
            return _refuse(
                421,
                "This server answers under its own names only; open the address that it printed "
                "(or name others with --allow-host).",
            )
        if _is_foreign(scope, headers):
            return _refuse(403, "Requests from other sites' pages are refused.")
        if self._token is not None and not by_link and not self._has_token(headers):
            return _refuse(
                401,
                "The token is missing or wrong: open the link that the server printed, or send "
                "'Authorization: Bearer TOKEN'.",
            )
        return None

    def _came_by_link(self, scope: Scope) -> bool:
        """Whether this is the first page, asked for with the right token."""
        if self._token is None or scope["path"] != "/":
            return False
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])
        return self._is_token(given[0])

    def _has_token(self, headers: Headers) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return self._is_token(given.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, given: str) -> bool:
        # In constant time: how long it takes must not tell how much of it is right.
        return hmac.compare_digest(given.encode(), str(self._token).encode())

    def _add_headers(self, headers: MutableHeaders, scope: Scope, by_link: bool) -> None:
        for name, value in _HEADERS.items():
            headers.setdefault(name, value)
        if scope["path"].startswith("/api"):
            headers.setdefault("cache-control", "no-store")
        if by_link:
            headers.append(
                "set-cookie", f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            )


def is_loopback(host: str) -> bool:
    """Whether a server bound to this address is reached from this machine only."""
    return host in LOOPBACK


def _name(host: str) -> str:
    """A Host header without its port; "" for one that is no host."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_foreign(scope: Scope, headers: Headers) -> bool:
    """Whether another site's page asks, by what browsers say of every request."""
    guarded = scope["path"].startswith("/api") or scope["method"] not in _READING
    if not guarded:
        return False
    if headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
        return True
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host", "")


def _refuse(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"detail": sentence}, status)
