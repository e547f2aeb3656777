"""Reads libpq's service files: named groups of connection parameters."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from exporter.connections.libpq import BY_NAME
from exporter.errors import SettingsError
from exporter.small_file import OddFileError, read_small


def service(name: str, environment: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """Return the file that has the service, and its parameters; SettingsError for none. No line is repeated."""
    for path in _files(environment):
        try:
            lines = read_small(path).decode("utf-8", "surrogateescape").splitlines()
        except (OSError, OddFileError) as error:
            if "PGSERVICEFILE" in environment and path == Path(environment["PGSERVICEFILE"]):
                why = f"cannot be read: {error.strerror}" if isinstance(error, OSError) else str(error)
                raise SettingsError(f"PGSERVICEFILE: {path}: {why}") from None
            continue
        if (found := _section(name, path, lines)) is not None:
            return path, found
    looked = ", ".join(map(str, _files(environment)))
    raise SettingsError(f"dsn: service: it is in none of the service files ({looked}). Add it there.")


def _files(environment: Mapping[str, str]) -> Iterator[Path]:
    if own := environment.get("PGSERVICEFILE"):
        yield Path(own)
    elif home := environment.get("HOME"):
        yield Path(home) / ".pg_service.conf"
    if system := environment.get("PGSYSCONFDIR"):
        yield Path(system) / "pg_service.conf"


def _section(name: str, path: Path, lines: list[str]) -> dict[str, str] | None:
    """Return the parameters of the first section of that name; the first of two values counts."""
    found: dict[str, str] | None = None
    for number, line in enumerate(map(str.strip, lines), 1):
        if line.startswith("["):
            if found is not None:
                return found
            found = {} if line == f"[{name}]" else None
        elif found is not None and line and not line.startswith("#"):
            key, equals, value = line.partition("=")
            if not equals or key not in BY_NAME or key == "service":
                raise SettingsError(f"{path}: line {number}: expected a parameter of libpq as key=value. Correct it.")
            found.setdefault(key, value)
    return found
