"""What the studio and the listening test have in common as web servers: who may ask, how much, and refusals in words.

A page here may only load what the server itself sends (a content security policy without exceptions), only pages of
the same origin may change anything or open a WebSocket, and nothing is answered under a host name that is not ours,
which is what a page elsewhere would come by (DNS rebinding).
"""

import ipaddress
import json
import mimetypes
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

from ostinato.utils.errors import UserError

STATIC = Path(__file__).parent / "static"
JSON_LIMIT = 64 * 1024  # bytes of a body that is JSON
MESSAGE_LIMIT = 64 * 1024  # bytes of one message of a WebSocket
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "media-src 'self' blob:; connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
WORDS = {404: "there is no such page here", 405: "this address does not accept this method"}

for _suffix, _type in {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}.items():
    mimetypes.add_type(_type, _suffix)  # some systems' tables have others, and a module of another type does not run


class Refusal(UserError):
    """A request that is refused: what was wrong, in words, and the HTTP status (413 too large, 429 too many...)."""

    def __init__(self, message: str, status: int = 400, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status, self.headers = status, headers


def make_app(routes: Sequence[BaseRoute], names: Sequence[str] = (), lifespan: Any = None) -> Starlette:
    """An application of `routes` behind `Guard`. names: host names it is reached by, besides this machine's and bare
    addresses. A `UserError` raised in a handler is answered as JSON {"error": ...}, status 400 or its own."""
    handlers: dict[Any, Any] = {UserError: _refused, HTTPException: _http_error, Exception: _broken}
    return Starlette(
        routes=list(routes),
        middleware=[Middleware(Guard, names=tuple(names))],
        exception_handlers=handlers,
        lifespan=lifespan,
    )


async def _refused(request: Request, error: Exception) -> Response:
    status, headers = getattr(error, "status", 400), getattr(error, "headers", None)
    return JSONResponse({"error": " ".join(str(error).split())}, status, headers)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": WORDS.get(error.status_code, error.detail)}, error.status_code, error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    # Starlette raises the error again once this is sent: the server's log has the traceback, the page does not.
    return JSONResponse({"error": "the server made a mistake; its terminal says more"}, 500)


class Guard:
    """Middleware: the headers of `HEADERS` on every answer; 421 for a strange host name; 403 for another origin."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...] = ()):
        self.app, self.names = app, own_names() | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refusal = self.refusal(scope)
        if refusal is not None and scope["type"] == "websocket":
            return await WebSocketClose(1008, str(refusal))(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-cache" if "etag" in headers else "no-store")
            await send(message)

        if refusal is not None:
            response = JSONResponse({"error": str(refusal)}, refusal.status)
            return await response(scope, receive, guarded)
        await self.app(scope, receive, guarded)

    def refusal(self, scope: Scope) -> Refusal | None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not known_host(host, self.names):
            return Refusal(f"this server is not called {host[:80]!r}: start it with --name to add a name", 421)
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and (urlsplit(origin).netloc.lower() != host.lower()):
            return Refusal("a page of another site asked this; only pages of this server may", 403)
        navigation = scope["type"] == "http" and headers.get("sec-fetch-mode") == "navigate"
        # A link to a page is welcome; one that has music made, or reads what was made, is not a page.
        page = navigation and scope["method"] in ("GET", "HEAD") and not scope["path"].startswith("/v1/")
        if site not in ("none", "same-origin") and not page:
            return Refusal("a page of another site asked this; only pages of this server may", 403)
        return None


def own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {"localhost", name, f"{name}.local"}


def known_host(host: str, names: set[str]) -> bool:
    """Whether a Host header is one of `names` or a bare address, which no other site's name can be made to be."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        urlsplit(f"//{host}").port  # noqa: B018  raises on one that is no number
    except ValueError:
        return False
    if name in names or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body. Raises Refusal (413) as soon as it is more than `limit` bytes."""
    too_large = Refusal(f"too large: at most {limit / 2**20:.3g} MiB are taken", 413, {"connection": "close"})
    told = request.headers.get("content-length", "")
    if told.isdigit() and int(told) > limit:
        raise too_large
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


async def read_json(request: Request, limit: int = JSON_LIMIT) -> dict[str, Any]:
    """The body as a JSON object. Raises Refusal for another type, another form, or more than `limit` bytes."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a form of another site cannot send this type
        raise Refusal(f"send JSON with content-type application/json, not {kind or 'none'!r}", 415)
    return parse_json(await read_body(request, limit))


def parse_json(text: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises Refusal if it is not one."""
    try:
        found = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"that is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise Refusal(f"send a JSON object {{...}}, not {type(found).__name__}")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def static(folder: str) -> StaticFiles:
    """The files of `static/folder` of this package; nothing outside it is ever served."""
    return StaticFiles(directory=STATIC / folder, html=True)


async def close(websocket: WebSocket, error: Exception, code: int = 1008) -> None:
    """Say why in a message of JSON, then close."""
    await websocket.send_json({"type": "error", "error": " ".join(str(error).split())})
    await websocket.close(code)


def listen_on(host: str, port: int) -> socket.socket:
    """A bound socket; port 0: any free one. Raises UserError where that cannot be."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(found[0], socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(found[4])
        sock.listen(1024)  # from here on nobody who has the address is turned away
    except (OSError, OverflowError, UnicodeError) as error:  # the last: a host name with an empty or long part
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"cannot listen on {host} port {port} ({reason}): choose another with --port") from error
    return sock


def address(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(app: ASGIApp) -> uvicorn.Server:
    """A uvicorn server that bounds messages and waits, and prints no names or addresses of who asks."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="websockets-sansio",
            ws_max_size=MESSAGE_LIMIT,
            ws_ping_interval=20,
            ws_ping_timeout=20,
            limit_concurrency=1000,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=2,
            h11_max_incomplete_event_size=32 * 1024,
        )
    )


def serve(app: ASGIApp, host: str = "127.0.0.1", port: int = 8000, what: str = "Ostinato") -> None:
    """Serve until interrupted, and print where. Raises UserError where it cannot listen there."""
    sock = listen_on(host, port)
    print(f"{what}: {address(sock)} (Ctrl-C ends it)", flush=True)
    if not ipaddress.ip_address(sock.getsockname()[0]).is_loopback:
        print("Everyone who reaches this machine can use it; there is no password.", flush=True)
    make_server(app).run([sock])
