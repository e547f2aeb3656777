"""Asks an exporter what is wrong now, and prints it."""

import base64
import os
import ssl
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from http.client import HTTPException, RemoteDisconnected
from io import TextIOWrapper
from pathlib import Path
from threading import Thread
from typing import Self
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

from pydantic import BaseModel, TypeAdapter, ValidationError
from rich.console import Console
from rich.text import Text

from exporter.commands.situation_lines import Line, brief, whole
from exporter.diagnosis.situation import Situation
from exporter.errors import ExporterError
from exporter.printable import printable
from exporter.small_file import OddFileError, read_small

_PATH = "/api/v1/now"

_SECONDS = 10.0
"""Timeout of each step of reading the answer: the exporter waits for nothing to make it."""

_MOST_SECONDS = 30.0
"""Time for the whole answer."""

_MOST_BYTES = 64 * 2**20
"""Upper bound on an answer: far beyond that of a thousand servers in trouble."""

_NO_ADDRESS = (
    "--url: is no address of an exporter. Write http://HOST:PORT, where needed with USER:PASSWORD@ before the host, and"
    " in the password %2F for /, %40 for @, %23 for #"
)

_NONE = (
    "The exporter watches no server: none is configured, or none was found. If pgvigil_discovery_success on /metrics"
    " is 0, its log says why."
)

_SITUATIONS = TypeAdapter(list[Situation])


@dataclass(frozen=True)
class Address:
    """Where an exporter serves, as a browser may have it."""

    place: str
    """URL without user, password and query."""
    user: str
    """User and password for basic authentication; empty for none."""
    query: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, url: str) -> Self:
        """Take a URL apart; http:// may be left out. Its error repeats nothing: it may hold a password."""
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            raise ExporterError(_NO_ADDRESS) from None
        if not is_http or "@" in f"{parts.path}{parts.query}{parts.fragment}":
            raise ExporterError(_NO_ADDRESS)
        user, _, host = parts.netloc.rpartition("@")
        place = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        return cls(printable(place), unquote(user), parse_qsl(parts.query))


@dataclass(frozen=True)
class Credentials:
    """What an exporter may ask its clients for, beside user and password in the URL."""

    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the certificates; ExporterError where they are none."""
        for option, file in (("ca", self.ca_file), ("cert", self.cert_file), ("key", self.key_file)):
            try:
                read_small(file) if file else None
            except (OSError, OddFileError) as error:
                raise ExporterError(f"--{option}-file: {file}: {getattr(error, 'strerror', None) or error}") from None
        try:
            context = ssl.create_default_context(cafile=self.ca_file and str(self.ca_file))
        except (OSError, ValueError) as error:
            raise ExporterError(f"--ca-file: {self.ca_file}: is no certificate in PEM: {error}") from None
        if self.cert_file:
            try:
                context.load_cert_chain(self.cert_file, self.key_file, password="")  # one that has one is not asked for
            except (OSError, ValueError) as error:
                why = f"certificate and key are none, or do not belong together: {error}"
                raise ExporterError(f"--cert-file, --key-file: {self.cert_file}: {why}") from None
        elif self.key_file:
            raise ExporterError("--key-file: has no certificate. Give --cert-file as well")
        return context

    def token(self) -> str:
        """Read the token; ExporterError where there is none, or none that can be sent."""
        if not self.token_file:
            return ""
        try:
            words = read_small(self.token_file).decode("ascii").split()
        except (OSError, ValueError) as error:
            why = (
                "is no text in ASCII" if isinstance(error, UnicodeError) else getattr(error, "strerror", None) or error
            )
            raise ExporterError(f"--token-file: {self.token_file}: {why}") from None
        if len(words) != 1:
            raise ExporterError(f"--token-file: {self.token_file}: expected one token, and nothing else")
        return words[0]


NO_CREDENTIALS = Credentials()


class _Problem(BaseModel):
    """An error of the API."""

    detail: str


def now(url: str, target: str, credentials: Credentials = NO_CREDENTIALS) -> int:
    """Print what is wrong now; return 0 for nothing, 1 for something, 2 where it is not known yet."""
    exporter = Address.of(url)
    found = _in_time(exporter, target, credentials)
    note = "One of them: pgvigil now --target NAME" if found else _NONE
    try:
        show(whole(found[0], exporter.place) if len(found) == 1 else [*map(brief, found), [(note, "")]])
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        raise ExporterError(f"standard output: {error.strerror}") from None
    if any(each.findings or each.down_reason for each in found):
        return 1
    return 0 if found and all(each.is_up and each.is_judged for each in found) else 2


def _in_time(exporter: Address, target: str, credentials: Credentials) -> Sequence[Situation]:
    """Ask; ExporterError where the answer takes too long: a byte now and then keeps each step within its timeout."""
    answer: Future[Sequence[Situation]] = Future()

    def run() -> None:
        try:
            answer.set_result(ask(exporter, target, credentials))
        except Exception as error:  # noqa: BLE001  # the boundary of the thread: whoever waits gets it
            answer.set_exception(error)

    Thread(target=run, name="now", daemon=True).start()
    try:
        return answer.result(_MOST_SECONDS)
    except TimeoutError:
        raise ExporterError(f"{exporter.place}{_PATH}: not answered within {_MOST_SECONDS:.0f} s") from None


class _Console(Console):
    """Leaves it to us what follows where nobody reads on: rich would end with 1, which means trouble here."""

    def on_broken_pipe(self) -> None:
        """Raise the BrokenPipeError that is being handled."""
        raise  # within an except clause of rich


def show(lines: Iterable[Line]) -> None:
    """Print lines, with colours in a terminal only; names are never read as markup, and no line is folded."""
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack characters that names have
    console = _Console(highlight=False)
    for line in lines:
        console.print(Text.assemble(*line), soft_wrap=True)


def ask(exporter: Address, target: str = "", credentials: Credentials = NO_CREDENTIALS) -> Sequence[Situation]:
    """Read what an exporter knows of its servers, or of one; ExporterError where that fails."""
    place = exporter.place + _PATH
    try:
        body = _read(exporter, target, credentials)
    except HTTPError as error:
        with error:
            why = _detail(error)
        raise ExporterError(f"{place}: {why}") from error
    except (OSError, HTTPException, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        why = printable(str(getattr(cause, "strerror", None) or cause))
        raise ExporterError(f"{place}: cannot be read: {why}. {_remedy(cause)}") from error
    try:
        return _SITUATIONS.validate_json(body)
    except ValidationError as error:
        raise ExporterError(f"{place}: is not the answer of a pgvigil. Say where it serves with --url") from error


def _remedy(cause: object) -> str:
    if isinstance(cause, ssl.SSLCertVerificationError):
        return "Give its authority, or the certificate itself, with --ca-file"
    if isinstance(cause, ssl.SSLError):
        return (
            "Does it speak TLS? Write http:// where it does not, and --cert-file where it asks for a certificate."
            " Its log says why it refuses one"
        )
    if isinstance(cause, RemoteDisconnected):
        return "Does it speak TLS? Write https:// then"
    return "Start the exporter there (pgvigil serve), or say where it serves with --url"


def _read(exporter: Address, target: str, credentials: Credentials) -> bytes:
    """Read the answer, directly as Prometheus does: a proxy for the outside would not find the exporter."""
    query = urlencode([*exporter.query, *([("target", target)] if target else [])])
    request = Request(f"{exporter.place}{_PATH}{'?' if query else ''}{query}")  # noqa: S310  # Address has checked it
    if exporter.user:
        basic = base64.b64encode(exporter.user.encode()).decode()
        request.add_unredirected_header("Authorization", f"Basic {basic}")  # not for another host
    if token := credentials.token():
        if exporter.user:
            raise ExporterError("--token-file: the URL has a user as well. Give one of them")
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    https = [HTTPSHandler(context=credentials.context())] if exporter.place.startswith("https:") else []
    with build_opener(ProxyHandler({}), *https).open(request, timeout=_SECONDS) as answer:
        body: bytes = answer.read(_MOST_BYTES + 1)
    if len(body) > _MOST_BYTES:
        raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    return body


def _detail(error: HTTPError) -> str:
    """Say why the exporter has no answer: in its own words where it has some."""
    try:
        said, is_known = printable(_Problem.model_validate_json(error.read(_MOST_BYTES)).detail), True
    except (ValidationError, OSError, HTTPException):
        said, is_known = printable(f"{error.code} {error.reason}"), False
    if error.code == 401:
        return f"{said}. Write USER:PASSWORD@ before the host in --url, or give --token-file, which nobody sees in ps"
    return said if is_known else f"{said}. Is it a pgvigil? Say where it serves with --url"
