"""Reads a secret that stands in a file: a password, or a whole DSN."""

from pathlib import Path

from exporter.errors import SettingsError
from exporter.small_file import OddFileError, read_small


def secret_in(file: Path, setting: str) -> str:
    """Read a secret from a file, less the newline at its end.

    SettingsError when it is empty, or when it cannot be read. It names a file that cannot be read only if that looks
    like a path.
    """
    try:
        secret = read_small(file).decode("utf-8").removesuffix("\n")
    except OddFileError as error:
        raise SettingsError(f"{setting}: {file}: {error}.") from None  # it is there, so it is no secret
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        where = (
            f"{file}: cannot be read: {why}" if is_path(file) else f"no file: {why}. Give a path, not the secret itself"
        )
        raise SettingsError(f"{setting}: {where}.") from None
    if not secret:
        raise SettingsError(f"{setting}: {file}: is empty. Write the secret into it.")
    return secret


def is_path(file: Path) -> bool:
    """Return whether what should name a file looks like a path, and may be repeated: some give the secret itself."""
    return file.is_absolute() and len(file.parts) > 2 and _is_folder(Path(*file.parts[:2]))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False
