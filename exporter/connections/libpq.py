"""libpq's connection parameters: each honoured, replaced by what the exporter does itself, or refused by name. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from exporter.connections.authentication import METHODS, is_list_of_methods
from exporter.errors import SettingsError


@dataclass(frozen=True)
class Parameter:
    """One parameter of libpq and its treatment here."""

    name: str
    variable: str
    """The environment variable that stands in for it; empty for none."""
    meaning: str
    """The treatment; of a refused one also the remedy."""
    values: tuple[str, ...] = ()
    """Values taken; empty for any."""
    is_used: bool = True
    """True if it has an effect; else the exporter decides itself."""

    @property
    def is_refused(self) -> bool:
        """Return whether no value is taken."""
        return self.meaning.startswith("Refused")


_TLS_VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")

_REQUIRE_TLS = "PGREQUIRESSL"
"""Deprecated variable: a value that begins with 1 stands for sslmode=require; PGSSLMODE wins."""

_BY_DRIVER = "Honoured, by the driver."
_REFUSED_KEYS = "Refused: the driver authenticates with the password. Leave it out."
_REFUSED_OAUTH = "Refused: the driver has no OAuth. Leave it out; log in with a password or a certificate."
_OWN_LIMITS = "Taken without effect: a server that falls silent is noticed by the exporter's own time limits."

PARAMETERS: tuple[Parameter, ...] = (
    Parameter(
        "host",
        "PGHOST",
        "Honoured: a name, an address or a folder of sockets; several are tried in order, each with its own password;"
        " all connections of a target go to the one that answered.",
    ),
    Parameter("hostaddr", "PGHOSTADDR", "Honoured without `host`. With both, TLS would check the wrong name: refused."),
    Parameter("port", "PGPORT", "Honoured: one for all hosts, or one for each."),
    Parameter("dbname", "PGDATABASE", "Honoured; the user's name by default."),
    Parameter("user", "PGUSER", "Honoured; the operating system's user by default."),
    Parameter(
        "password",
        "PGPASSWORD",
        "Honoured; `password_file`, `password_command` and `password_source` win.",
    ),
    Parameter(
        "passfile",
        "PGPASSFILE",
        "Honoured; `~/.pgpass` by default. As in libpq, a folder of sockets is looked up by its path, and only without"
        " a host, or with `/var/run/postgresql`, as `localhost`.",
    ),
    Parameter("service", "PGSERVICE", "Honoured: from `PGSERVICEFILE`, `~/.pg_service.conf`, or `PGSYSCONFDIR`."),
    Parameter("options", "PGOPTIONS", "Honoured; the exporter's guard rails win."),
    Parameter(
        "target_session_attrs",
        "PGTARGETSESSIONATTRS",
        "Honoured when the server is chosen; while a connection to it is kept, others go to the same one.",
        ("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    ),
    Parameter(
        "sslmode",
        "PGSSLMODE",
        "Honoured; `prefer` by default.",
        ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    ),
    Parameter("sslnegotiation", "PGSSLNEGOTIATION", _BY_DRIVER, ("postgres", "direct")),
    Parameter("sslrootcert", "PGSSLROOTCERT", "Honoured; `system` stands for the CAs of the system."),
    Parameter("sslcert", "PGSSLCERT", "Honoured."),
    Parameter(
        "sslkey",
        "PGSSLKEY",
        "Honoured. As in libpq, refused if others than its owner may use it: mode 0600, or 0640 if root owns it.",
    ),
    Parameter("sslpassword", "", "Honoured."),
    Parameter("sslcrl", "PGSSLCRL", "Honoured."),
    Parameter("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION", "Honoured.", _TLS_VERSIONS),
    Parameter("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION", "Honoured.", _TLS_VERSIONS),
    Parameter("krbsrvname", "PGKRBSRVNAME", "Honoured, by the driver; GSSAPI needs the Python package gssapi."),
    Parameter("gsslib", "PGGSSLIB", _BY_DRIVER, ("gssapi", "sspi")),
    Parameter("application_name", "PGAPPNAME", "Taken without effect: the session is called `pgvigil`.", is_used=False),
    Parameter("fallback_application_name", "", "Taken without effect: the session is called `pgvigil`.", is_used=False),
    Parameter(
        "client_encoding", "PGCLIENTENCODING", "Taken without effect: text of any encoding is read.", is_used=False
    ),
    Parameter(
        "connect_timeout",
        "PGCONNECT_TIMEOUT",
        "Taken without effect: the setting `connect_timeout` holds; of several hosts or addresses, each has its share.",
        is_used=False,
    ),
    Parameter("keepalives", "", _OWN_LIMITS, is_used=False),
    Parameter("keepalives_idle", "", _OWN_LIMITS, is_used=False),
    Parameter("keepalives_interval", "", _OWN_LIMITS, is_used=False),
    Parameter("keepalives_count", "", _OWN_LIMITS, is_used=False),
    Parameter("tcp_user_timeout", "", _OWN_LIMITS, is_used=False),
    Parameter("sslcompression", "PGSSLCOMPRESSION", "Taken without effect: nothing is compressed.", ("0", "1"), False),
    Parameter(
        "channel_binding",
        "PGCHANNELBINDING",
        "`require` is refused: the driver binds no channel. Use sslmode=verify-full, which checks the server.",
        ("disable", "prefer"),
        is_used=False,
    ),
    Parameter(
        "gssencmode",
        "PGGSSENCMODE",
        "`require` is refused: the driver encrypts with TLS only. Use sslmode=require or stricter.",
        ("disable", "prefer"),
        is_used=False,
    ),
    Parameter(
        "require_auth",
        "PGREQUIREAUTH",
        "Honoured: methods that the server may ask for, separated by commas, or each with a `!` those it may not.",
        METHODS,
    ),
    Parameter(
        "sslcertmode",
        "PGSSLCERTMODE",
        "All but `allow` is refused: the driver sends the certificate that there is when asked. Leave it out.",
        ("allow",),
        is_used=False,
    ),
    Parameter(
        "sslsni",
        "PGSSLSNI",
        "`0` is refused: the driver always sends the name of the host. Write its address as the host.",
        ("1",),
        is_used=False,
    ),
    Parameter("sslcrldir", "PGSSLCRLDIR", "Refused: the driver reads one file. Name it in sslcrl."),
    Parameter("sslkeylogfile", "", "Refused: it would write the keys of the connection to a file. Leave it out."),
    Parameter(
        "requirepeer",
        "PGREQUIREPEER",
        "Refused: the driver does not check who owns the socket. Use TCP with sslmode=verify-full.",
    ),
    Parameter(
        "min_protocol_version",
        "PGMINPROTOCOLVERSION",
        "More than `3.0` is refused: the driver speaks protocol 3.0. Leave it out.",
        ("3.0",),
        is_used=False,
    ),
    Parameter(
        "max_protocol_version",
        "PGMAXPROTOCOLVERSION",
        "Taken without effect: the driver speaks protocol 3.0.",
        ("3.0", "3.2", "latest"),
        is_used=False,
    ),
    Parameter(
        "gssdelegation",
        "PGGSSDELEGATION",
        "`1` is refused: the driver delegates no credentials. Leave it out.",
        ("0",),
        is_used=False,
    ),
    Parameter(
        "load_balance_hosts",
        "PGLOADBALANCEHOSTS",
        "`random` is refused: each server is a target of its own. Name one host.",
        ("disable",),
        is_used=False,
    ),
    Parameter(
        "replication",
        "",
        "Anything but `false` is refused: such a connection runs no queries. Leave it out.",
        ("false", "off", "no", "0"),
        is_used=False,
    ),
    Parameter("scram_client_key", "", _REFUSED_KEYS),
    Parameter("scram_server_key", "", _REFUSED_KEYS),
    Parameter("oauth_issuer", "", _REFUSED_OAUTH),
    Parameter("oauth_client_id", "", _REFUSED_OAUTH),
    Parameter("oauth_client_secret", "", _REFUSED_OAUTH),
    Parameter("oauth_scope", "", _REFUSED_OAUTH),
)
"""All parameters of libpq 18, in the order of the table in LIBPQ.md."""

BY_NAME: Mapping[str, Parameter] = {parameter.name: parameter for parameter in PARAMETERS}


def checked(given: Mapping[str, str], place: str) -> dict[str, str]:
    """Return the parameters that have an effect; SettingsError for one that cannot be kept. No value is repeated."""
    kept = {}
    for name, value in given.items():
        parameter = BY_NAME[name]
        if "\0" in value:
            raise SettingsError(f"{place}: {name} holds a NUL byte. Remove it.")
        if value and (parameter.is_refused or not _is_taken(parameter, value)):
            raise SettingsError(f"{place}: {name} cannot be kept as given. {_remedy(parameter)}")
        if parameter.is_used:
            kept[name] = value
    return kept


def _is_taken(parameter: Parameter, value: str) -> bool:
    """Return whether a value is one of those that are taken."""
    if parameter.name == "require_auth":
        return is_list_of_methods(value)
    return not parameter.values or value in parameter.values


def _remedy(parameter: Parameter) -> str:
    if parameter.meaning.startswith("Honoured"):
        return f"It is one of {', '.join(parameter.values)}."
    return parameter.meaning


def variables(environment: Mapping[str, str]) -> Iterator[tuple[Parameter, str]]:
    """Yield the parameters that the environment sets, with their values."""
    if environment.get(_REQUIRE_TLS, "").startswith("1"):
        environment = {"PGSSLMODE": "require"} | {name: value for name, value in environment.items() if value}
    for parameter in PARAMETERS:
        if parameter.variable and (value := environment.get(parameter.variable)):
            yield parameter, value


_HEAD = """# libpq's parameters

Written by `pgvigil reference` from exporter/connections/libpq.py; a test fails when it is out of date.

For a target of kind `postgresql`. PgBouncer's console is reached with libpq itself, which honours all of them.

A parameter comes from `PGVIGIL_DSN`, else from its service in a service file, else from its variable, as in libpq 18.
What the exporter cannot keep it refuses at the start, with the parameter's name: no demand is dropped silently. A name
that libpq does not know is refused as well; a setting of the server goes into `options=-c name=value`. `ssl=true` in
a URI stands for `sslmode=require`, as do the deprecated `requiressl=1` and, without `PGSSLMODE`, `PGREQUIRESSL=1`.
`PGDATESTYLE`, `PGTZ` and `PGGEQO` have no effect: nothing depends on them.

The driver is asyncpg; what it honours is handed on to it as it is.

| parameter | variable | here |
|---|---|---|
"""


def table() -> str:
    """Describe every parameter in Markdown."""
    rows = (
        f"| `{p.name}` | {f'`{p.variable}`' if p.variable else ''} | {p.meaning}{_choice(p)} |\n" for p in PARAMETERS
    )
    return _HEAD + "".join(rows)


def _choice(parameter: Parameter) -> str:
    return f" One of {', '.join(f'`{value}`' for value in parameter.values)}." if parameter.values else ""
