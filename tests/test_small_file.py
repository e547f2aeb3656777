"""What users name and is no small regular file is refused at once, by every reader of secrets."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.commands.now import Credentials
from exporter.connections.pgpass import password_in
from exporter.connections.secret_file import secret_in
from exporter.connections.service_file import service
from exporter.errors import ExporterError, SettingsError
from exporter.small_file import LARGEST_BYTES, read_small

KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "is not a regular file. Name a file, not a folder, pipe or device"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file. Name a file"),
    "folder": (Path.mkdir, "is not a regular file. Name a file"),
    "large": (lambda path: path.write_bytes(bytes(LARGEST_BYTES + 1)), "is larger than 1 MiB. Shorten or split it"),
}

READERS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "secret": (lambda file: secret_in(file, "dsn_file"), SettingsError),
    "service": (lambda file: service("shop", {"PGSERVICEFILE": str(file)}), SettingsError),
    "authority": (lambda file: Credentials(ca_file=file).context(), ExporterError),
    "token": (lambda file: Credentials(token_file=file).token(), ExporterError),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_it_is_named_with_the_remedy(reader: str, kind: str, tmp_path: Path) -> None:
    make, expected = KINDS[kind]
    make(tmp_path / "odd")
    read, error = READERS[reader]
    with pytest.raises(error) as caught:
        read(tmp_path / "odd")
    assert str(tmp_path / "odd") in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_libpq_goes_without_a_pgpass_that_is_none(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    KINDS[kind][0](file)
    if not file.is_symlink():
        file.chmod(0o600)
    assert password_in(file, ("h", "5432"), "d", "u") is None


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    whole = os.urandom(LARGEST_BYTES)
    (tmp_path / "file").write_bytes(whole)
    assert read_small(tmp_path / "file") == whole
