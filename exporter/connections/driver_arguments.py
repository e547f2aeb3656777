"""Turns connection parameters into what asyncpg takes, and checks the files that they name."""

import os
import pwd
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from exporter.connections.pgpass import password_in
from exporter.errors import SettingsError

_IN_URI = {
    "sslmode",
    "sslnegotiation",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslcrl",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
}
"""Parameters that asyncpg takes in a URI only."""

NO_FILE = Path("/nonexistent/.pgpass")
"""Given to the driver, so that it reads no password file itself."""

_DEFAULT_SOCKETS = "/var/run/postgresql"
"""Folder of sockets that libpq looks up as `localhost`, as Debian and Red Hat build it; any other goes by its path."""

_VERIFYING = ("require", "verify-ca", "verify-full")
"""Values of sslmode with which the driver reads the certificates of CAs."""


_PRIVATE = b"PRIVATE KEY-----"
"""End of a line in each file of a private key."""

_OPEN = stat.S_IRWXG | stat.S_IRWXO
"""Permissions that a private key must not give."""

_OPEN_OF_ROOT = _OPEN & ~stat.S_IRGRP
"""The same of a file that root owns: a group may be let in, as for a key of the whole system."""


def each_server(known: Mapping[str, str]) -> list[dict[str, str]]:
    """Split the parameters of several hosts into those of each, in the order to try them."""
    hosts, ports = known.get("host", "").split(","), known.get("port", "").split(",")
    places = zip(hosts, ports if len(ports) == len(hosts) else ports * len(hosts), strict=True)
    rest = {name: value for name, value in known.items() if name not in ("host", "port")}
    return [rest | ({"host": host} if host else {}) | ({"port": port} if port else {}) for host, port in places]


def driver_arguments(known: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of `asyncpg.connect` for one server; SettingsError names a file that cannot be read.

    May block, as it reads all files that the driver is going to read on the event loop.
    """
    known = dict(known)
    arguments: dict[str, Any] = {}
    _refuse_open_key(known)
    if known.get("sslrootcert") == "system":
        arguments["ssl"] = _system_cas(known)
        del known["sslrootcert"]
    _check_files(known)
    _read_ahead(known)
    in_uri = {name: value for name, value in known.items() if name in _IN_URI}
    arguments["dsn"] = "postgresql://?" + urlencode(in_uri, quote_via=quote) if in_uri else "postgresql://"
    if host := known.get("host"):
        arguments["host"] = host
    if port := known.get("port"):
        arguments["port"] = int(port)
    if options := known.get("options"):
        arguments["server_settings"] = {"options": options}
    names = {"dbname": "database"} | {
        name: name for name in ("user", "password", "target_session_attrs", "krbsrvname", "gsslib")
    }
    known["user"] = known.get("user") or _user()
    arguments["passfile"] = NO_FILE
    if "password" not in known and (password := _password(known)) is not None:
        known["password"] = password
    return arguments | {names[name]: value for name, value in known.items() if name in names}


def _password(known: Mapping[str, str]) -> str | None:
    """Look the password of a server up in the password file, by the host that libpq would look for."""
    host = known.get("host", _DEFAULT_SOCKETS)
    server = ("localhost" if host == _DEFAULT_SOCKETS else host, known.get("port", "5432"))
    file = Path(known["passfile"]) if "passfile" in known else home() / ".pgpass"
    return password_in(file, server, known.get("dbname") or known["user"], known["user"])


def _check_files(known: Mapping[str, str]) -> None:
    mode = known.get("sslmode", "prefer")
    read = [
        *(("sslrootcert", "sslcrl") if mode in _VERIFYING else ()),
        *(("sslcert", "sslkey") if mode != "disable" else ()),
    ]
    for name in read:
        path = known.get(name)
        if path and not (Path(path).is_file() and os.access(path, os.R_OK)):
            raise SettingsError(f"dsn: {name}: {path}: no file that can be read. Correct the path or its permissions.")


def _refuse_open_key(known: Mapping[str, str]) -> None:
    """Refuse a private key that others may read, as libpq does; the file of the certificate may hold it as well."""
    folder = home() / ".postgresql"
    cert, key = known.get("sslcert", folder / "postgresql.crt"), known.get("sslkey", folder / "postgresql.key")
    is_socket = known.get("host", "/").startswith("/") and "hostaddr" not in known
    if known.get("sslmode") == "disable" or is_socket or not os.access(cert, os.R_OK):
        return
    name, file = ("sslkey", Path(key)) if Path(key).is_file() else ("sslcert", Path(cert))
    if not file.is_file() or (name == "sslcert" and _PRIVATE not in file.read_bytes()):
        return
    found = file.stat()
    if found.st_mode & (_OPEN_OF_ROOT if found.st_uid == 0 else _OPEN):
        raise SettingsError(
            f"dsn: {name}: {file}: others than its owner may use the private key. Give it mode 0600, or 0640 if root"
            " owns it."
        )


def _read_ahead(known: Mapping[str, str]) -> None:
    """Read the files that the driver reads, those too that it looks for where nothing names them: a mount may hang.

    The driver would wait on the event loop, for a pipe without end.
    """
    usual: dict[str, str] = {}
    if known.get("sslmode") != "disable" and not known.get("host", "").startswith("/"):
        usual |= {"sslcert": ".postgresql/postgresql.crt", "sslkey": ".postgresql/postgresql.key"}
        if known.get("sslmode") in _VERIFYING:
            usual |= {"sslrootcert": ".postgresql/root.crt", "sslcrl": ".postgresql/root.crl"}
    for name, path in usual.items():
        file = Path(known[name]) if name in known else home() / path
        if file.is_file() and os.access(file, os.R_OK):
            file.read_bytes()
        elif file.exists():
            raise SettingsError(f"dsn: {name}: {file}: no file that can be read. Correct the path or its permissions.")


def home() -> Path:
    """Return the home folder, one that does not exist where the system knows none."""
    try:
        return Path.home()
    except (RuntimeError, KeyError):
        return Path("/nonexistent")


def _user() -> str:
    """Return the operating system's user, whom a directory of users over the network may have to be asked for."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except (KeyError, OSError):
        raise SettingsError(
            f"dsn: user: none is given, and the system has no name for uid {os.geteuid()}. Name it."
        ) from None


def _system_cas(known: Mapping[str, str]) -> ssl.SSLContext:
    """Trust the CAs of the system; as in libpq, the name of the host is always checked then."""
    if known.get("sslmode", "verify-full") != "verify-full":
        raise SettingsError("dsn: sslrootcert=system takes sslmode=verify-full only. Write that, or leave sslmode out.")
    context = ssl.create_default_context()
    context.set_alpn_protocols(["postgresql"])
    if crl := known.get("sslcrl"):
        _check_files({**known, "sslmode": "verify-full", "sslrootcert": ""})
        context.load_verify_locations(crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    if cert := known.get("sslcert"):
        _check_files(known)
        context.load_cert_chain(cert, known.get("sslkey"), known.get("sslpassword", ""))
    for name in ("minimum", "maximum"):
        if version := known.get(f"ssl_{name[:3]}_protocol_version"):
            setattr(context, f"{name}_version", ssl.TLSVersion[version.replace(".", "_")])
    return context
