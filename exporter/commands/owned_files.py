"""Writes files of ours to a user's folder, and removes those that an earlier run wrote and this one does not.

A manifest in the folder, `.pgvigil-rules` or `.pgvigil-dashboards`, names what the command wrote. All other files stay.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

_MANIFEST_HEAD = "# Written by `pgvigil {command}`, which overwrites or removes these files when it runs again."

_MARK = "# Written by `pgvigil {command}`, which overwrites or removes this file when it runs again.\n"
"""First line of a YAML file, for its reader; the first versions wrote it instead of a manifest."""


def write_owned(command: str, files: Mapping[str, str], folder: Path) -> list[str]:
    """Write the files of a command, name -> text, and return the names of those that were removed."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / f".pgvigil-{command}"
    mark = _MARK.format(command=command)
    former = sorted({*_listed(manifest), *_marked(folder, mark)} - files.keys())
    _write_manifest(manifest, command, {*files, *former})  # first, so that an interrupted run loses track of none
    for name, text in files.items():
        _replace(folder / name, mark + text if name.endswith(".yml") else text)
    removed = [name for name in former if _is_file(folder / name)]
    for name in removed:
        (folder / name).unlink()
    _write_manifest(manifest, command, files)
    return removed


def strangers(command: str, names: Iterable[str], folder: Path) -> list[str]:
    """Name the files that a command would overwrite in a folder, and that it has not written."""
    ours = {*_listed(folder / f".pgvigil-{command}"), *_marked(folder, _MARK.format(command=command))}
    return [name for name in names if (folder / name).exists() and name not in ours]


def _listed(manifest: Path) -> Iterator[str]:
    """Yield the names in a manifest that are plain: nothing outside its folder is ours."""
    lines = manifest.read_text("utf-8", "replace").splitlines() if _is_file(manifest) else ()
    yield from (name for name in lines if name == Path(name).name and not name.startswith((".", "#")))


def _marked(folder: Path, mark: str) -> Iterator[str]:
    for file in folder.glob("*.yml"):
        if _is_file(file):
            with file.open("rb") as stream:
                if stream.read(len(mark)) == mark.encode():
                    yield file.name


def _is_file(path: Path) -> bool:
    """Return whether this is a regular file; a link is none, since its file may be elsewhere."""
    return path.is_file() and not path.is_symlink()


def _write_manifest(manifest: Path, command: str, names: Iterable[str]) -> None:
    _replace(manifest, "\n".join([_MANIFEST_HEAD.format(command=command), *sorted(names), ""]))


def _replace(path: Path, text: str) -> None:
    """Put a new file in place in one step: readers never see a part of it, and no link is followed."""
    new = path.with_name(f".{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        with new.open("x", encoding="utf-8") as stream:
            stream.write(text)
        new.replace(path)
    except OSError as error:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
