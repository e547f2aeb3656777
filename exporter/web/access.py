"""Lets requests in, or says why not: rate, credentials, and who may see pages with texts of statements."""

import logging
import re
import socket
from collections.abc import Collection, Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from exporter.exposition.process_metrics import Refusal
from exporter.web.clients import Seldom
from exporter.web.guard import Guard, Rules

_log = logging.getLogger(__name__)

CERTIFIED = "is_certified"
"""Key of the state of a connection: whether the certificate of the client was verified."""

_LINES = 10
"""Lines a minute about requests that are refused, of each reason."""

_MOST_OF_A_PATH = 200
"""Characters of a path that a line repeats."""

_log.addFilter(Seldom(_LINES))

_OF_PROXIES = re.compile(rb"x-forwarded-|x-envoy-|x-real-ip$|x-request-id$|forwarded$|via$")
"""Headers by which a request is another's, whom a proxy on this machine passes on."""

OPEN = frozenset({"/healthz", "/readyz"})
"""Routes for everybody: a platform asks them, and they say nothing of any server."""

RELOAD = "/-/reload"
"""Route that has the configuration read again, as Prometheus has it."""

_OFF = "pages are switched off (pages: off); /metrics and /probe are served"

_REMEDY = (
    "pages show texts of statements. They are for clients on this machine, for networks in pages_from, or for those"
    " with credentials: users and certificates of web_config_file, tokens of bearer_token_file (pages: authenticated)"
)


class Access:
    """Stands before the application.

    Args:
        app: the application.
        guard: the rules of the moment.
        for_scrapers: routes that are no pages for users.

    """

    def __init__(self, app: ASGIApp, guard: Guard, for_scrapers: Collection[str]) -> None:
        self._app = app
        self._guard = guard
        self._for_scrapers = frozenset(for_scrapers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        rules = self._guard.rules
        refused = await self._refused(scope, rules)
        app: ASGIApp = self._app
        if refused:
            reason, app = refused
            self._guard.refused[reason] += 1
            host = scope["client"][0] if scope.get("client") else "unknown"
            _log.warning(f"request refused: {reason}", extra={"client": host, "path": scope["path"][:_MOST_OF_A_PATH]})
        await app(scope, receive, _with_headers(send, rules) if rules.headers else send)

    async def _refused(self, scope: Scope, rules: Rules) -> tuple[Refusal, Response] | None:
        """Return why a request is refused, and the answer; None where it is not."""
        path = scope["path"]
        if path in OPEN:
            return None
        if rules.bucket and not rules.bucket.allows():
            return "rate", _answer(path, 429, "too many requests")
        if rules.users:
            verdict = await rules.users.judge(Headers(scope=scope).get("Authorization", ""))
            if verdict == "busy":
                return "rate", _answer(path, 429, "too many passwords to check")
            if verdict == "refused":
                given = Headers(scope=scope).get("Authorization")
                answer = _answer(path, 401, "the credentials are wrong" if given else "credentials are needed")
                answer.headers["WWW-Authenticate"] = "Basic"
                return "credentials", answer
        may_see = _may_reload if path == RELOAD else _may_see_pages
        if path in self._for_scrapers or may_see(scope, rules):
            return None
        return "pages", _answer(path, 404 if rules.pages == "off" else 403, _OFF if rules.pages == "off" else _REMEDY)


def _may_see_pages(scope: Scope, rules: Rules) -> bool:
    if rules.pages == "authenticated":
        return _has_identity(scope, rules)
    return rules.pages == "local" and _is_local(scope, rules.networks)


def _may_reload(scope: Scope, rules: Rules) -> bool:
    """Return whether a client may have files read again: whoever may see pages, unless another site has it asked."""
    origin = Headers(scope=scope).get("Origin", "")
    is_own = not origin or origin.partition("://")[2] == Headers(scope=scope).get("Host", "")
    return is_own and (_has_identity(scope, rules) or _is_local(scope, rules.networks))


def _has_identity(scope: Scope, rules: Rules) -> bool:
    """Return whether a client, whose credentials were checked before, had to have some."""
    return bool(rules.users) or bool(scope.get("state", {}).get(CERTIFIED))


def _is_local(scope: Scope, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    """Return whether a client is on this machine, or in one of the networks.

    On this machine a browser may have been led here by a page of somebody else, whose name then is in the header Host;
    and what listens to a network may pass on whatever it gets, with the address that was asked for in Host, or in the
    HTTP/1.0 of proxies.
    """
    headers = Headers(scope=scope)
    is_passed_on = scope["http_version"] == "1.0" or any(_OF_PROXIES.match(name) for name, _ in headers.raw)
    is_own = not is_passed_on and _is_ours(headers.get("Host", ""))
    if not scope.get("client"):
        return is_own and (scope.get("server") or ("", 0))[1] is None  # by a Unix socket
    try:
        address = ip_address(scope["client"][0])
    except (IndexError, TypeError, ValueError):
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if any(address in network for network in networks):
        return True
    return address.is_loopback and is_own


def _is_ours(host: str) -> bool:
    name = re.sub(r":\d*$", "", host)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return name.lower().rstrip(".") in ("localhost", socket.gethostname().lower())


def _answer(path: str, status: int, text: str) -> Response:
    if path.startswith("/api/"):
        return JSONResponse({"detail": text}, status)
    return PlainTextResponse(f"{text}\n", status)


def _with_headers(send: Send, rules: Rules) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in rules.headers.items():
                headers.setdefault(name, value)  # a page's own is as strict as it can be
        await send(message)

    return sent
