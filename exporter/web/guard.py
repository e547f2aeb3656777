"""Holds who may see what, as files and settings say, and reads the files again when they change."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from exporter.connections.off_loop import OffLoop
from exporter.connections.secret_file import is_path
from exporter.errors import PgvigilError, SettingsError
from exporter.exposition.process_metrics import HTTP_REFUSED, WEB_CONFIG_SUCCESS, Refusal
from exporter.file_changes import fingerprint, settled
from exporter.samples.label_values import label_text
from exporter.samples.model import Family
from exporter.settings import Pages, Settings
from exporter.web.rate_limit import Bucket
from exporter.web.users import Users

if TYPE_CHECKING:
    from OpenSSL import SSL

    from exporter.web.tls import ServerTls
    from exporter.web.web_config import RateLimit, WebConfig

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 3.0
"""Interval at which the files are looked at: a certificate is renewed days before it ends."""

_PATIENCE_SECONDS = 10.0

_MOST_TOKENS = 100

_SHORTEST_TOKEN = 16
"""Characters of a token at least: nothing slows down guesses."""


@dataclass(frozen=True)
class Rules:
    """Who may see what."""

    users: Users = field(default_factory=lambda: Users({}))
    pages: Pages = "local"
    networks: Sequence[IPv4Network | IPv6Network] = ()
    """Networks that count as local."""
    headers: Mapping[str, str] = field(default_factory=dict)
    bucket: Bucket | None = None


class Guard:
    """The rules of the moment.

    Args:
        settings: name the files.

    Raises:
        SettingsError: a file cannot be used.

    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls = OffLoop()
        self.refused: Counter[Refusal] = Counter(dict.fromkeys(get_args(Refusal), 0))
        self.why = ""
        """Why the files cannot be used; empty while the rules are theirs."""
        self._files = self._files_of(self._config())
        self._seen: object = fingerprint(self._files)  # before what counts is read
        config = self._config()
        self.tls = self._tls_of(config) if config and config.tls_server_config.is_enabled else None
        self.rules = self._rules(config, Rules())
        is_anybody_known = self.rules.users or (self.tls and self.tls.verifies)
        if self.rules.pages == "authenticated" and not is_anybody_known:
            _log.warning("pages: authenticated: nobody has credentials, so nobody sees them. Name users or tokens")
        self._config_now = config

    async def watch(self) -> None:
        """Read the files again when they change, until cancelled."""
        while self._has_files:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.reload(self._seen)

    @property
    def _has_files(self) -> bool:
        return bool(self._settings.web_config_file or self._settings.bearer_token_file)

    async def reload(self, known: object = None) -> str:
        """Read the files again, unless they are still those `known`; return why they cannot be used, or nothing."""
        try:
            seen = await self._look()
            if self._has_files and seen != known:
                seen = await settled(self._look, seen)  # half of it may ask for less
                adopt = await self._calls.call("read", self._read, _PATIENCE_SECONDS)
                adopt()
                self._seen = seen
        except (PgvigilError, TimeoutError) as error:
            return self._fail(str(error))
        except Exception as error:  # noqa: BLE001  # the boundary: nothing else retrieves it
            return self._fail(f"{type(error).__name__}: {error}")
        return ""

    async def _look(self) -> object:
        return await self._calls.call("look", lambda: fingerprint(self._files), _PATIENCE_SECONDS)

    def families(self) -> list[Family]:
        """Say whom it refused, and whether its files can be used."""
        labels = [label_text({"reason": reason}) for reason in self.refused]
        return [
            Family(HTTP_REFUSED, labels, [*self.refused.values()]),
            Family(WEB_CONFIG_SUCCESS, [""], [int(not self.why)]),
        ]

    def _fail(self, why: str) -> str:
        if why != self.why:
            _log.warning("web configuration cannot be used; the earlier one stays", extra={"reason": why})
        self.why, self._seen = why, None
        return why

    def _read(self) -> Callable[[], None]:
        """Read all files, in a thread; return what makes them the rules."""
        config = self._config()
        is_tls = bool(config and config.tls_server_config.is_enabled)
        if is_tls != (self.tls is not None):
            raise SettingsError(
                f"{self._settings.web_config_file}: tls_server_config: begins or ends. Restart for that"
            )
        if config and config == type(config)() != self._config_now:
            raise SettingsError(f"{self._settings.web_config_file}: is empty. Restart for that, since it opens all")
        rules, context = self._rules(config, self.rules), None
        if lost := _identities(self._config_now, self.rules) - _identities(config, rules):
            named = self._settings.web_config_file
            raise SettingsError(f"{named}: has no {' and no '.join(sorted(lost))} any more. Restart for that")
        if config and self.tls:
            context = self._context_of(config)

        def adopt() -> None:
            self.rules = rules
            self._files, self._config_now = self._files_of(config), config
            if self.tls and context and config:
                self.tls.adopt(config.tls_server_config, context)
            self.why = ""
            _log.info("web configuration was read again")

        return adopt

    def _config(self) -> "WebConfig | None":
        if not self._settings.web_config_file:
            return None
        from exporter.web.web_config import read_web_config

        return read_web_config(self._settings.web_config_file)

    def _tls_of(self, config: "WebConfig") -> "ServerTls":
        from exporter.web.tls import ServerTls

        return ServerTls(config.tls_server_config, self._context_of(config))

    def _context_of(self, config: "WebConfig") -> "SSL.Context":
        from exporter.web.tls import context_of

        try:
            return context_of(config.tls_server_config)
        except SettingsError as error:
            raise SettingsError(f"{self._settings.web_config_file}: {error}") from None

    def _rules(self, config: "WebConfig | None", earlier: Rules) -> Rules:
        hashes = {user: word.get_secret_value() for user, word in config.basic_auth_users.items()} if config else {}
        users = Users(hashes, _tokens(self._settings.bearer_token_file), earlier.users)
        tls = config.tls_server_config if config else None
        is_certified = bool(tls and tls.verifies and tls.requires)
        limit = config.rate_limit if config else None
        headers = config.http_server_config.headers if config else {}
        return Rules(
            users=users,
            pages=self._settings.pages or ("authenticated" if users or is_certified else "local"),
            networks=self._settings.pages_from,
            headers={name: value for name, value in headers.items() if value},
            bucket=_bucket(limit, earlier.bucket) if limit and limit.interval else None,
        )

    def _files_of(self, config: "WebConfig | None") -> tuple[Path, ...]:
        named = (self._settings.web_config_file, self._settings.bearer_token_file)
        return (*filter(None, named), *(config.tls_server_config.files if config else ()))


def _identities(config: "WebConfig | None", rules: Rules) -> set[str]:
    """Return by what clients have to say who they are."""
    tls = config.tls_server_config if config else None
    has = {"users or tokens": bool(rules.users), "client certificates": bool(tls and tls.verifies and tls.requires)}
    return {name for name, is_there in has.items() if is_there}


def _bucket(limit: "RateLimit", earlier: Bucket | None) -> Bucket:
    """Keep the bucket while its limits stay."""
    is_same = earlier and (earlier.interval, earlier.burst) == (limit.interval, limit.burst)
    return earlier if earlier and is_same else Bucket(limit.interval, limit.burst)


def _tokens(file: Path | None) -> list[str]:
    """Read the tokens, one a line; SettingsError names file, place and remedy."""
    if not file:
        return []
    from exporter import strict_yaml

    name = str(file) if file.exists() or is_path(file) else "bearer_token_file"
    lines = strict_yaml.read(file, SettingsError, name).splitlines()
    tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not tokens:
        raise SettingsError(f"{file}: has no token. Write one a line: `openssl rand -hex 32` makes one")
    if len(tokens) > _MOST_TOKENS:
        raise SettingsError(f"{file}: has more than {_MOST_TOKENS} tokens. Remove those that nobody uses")
    for number, line in enumerate(lines, 1):
        token = line.strip()
        if token in tokens and (len(token) < _SHORTEST_TOKEN or not token.isascii() or " " in token):
            what = f"is no token of {_SHORTEST_TOKEN} characters or more, in ASCII and without blanks"
            raise SettingsError(f"{file}: line {number}: {what}. `openssl rand -hex 32` makes one")
    return tokens
