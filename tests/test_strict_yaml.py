"""YAML that users write: every failure is one line with file, place, fault and remedy."""

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pytest

from exporter import strict_yaml
from exporter.catalog.load import load as load_catalog
from exporter.commands.rules import read_values
from exporter.configuration import load_settings
from exporter.errors import CatalogError, PgvigilError, SettingsError, ValuesError
from exporter.web.web_config import read_web_config


def fault(text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        strict_yaml.parse(text, SettingsError, "my.yml")
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2", "line 2: key 'a' is written twice. Keep one of them."),
        ("a: {b: 1, b: 2}", "line 1: key 'b' is written twice. Keep one of them."),
        ("? [a]\n: b", "line 1: a key must be plain. Write a word or a number."),
        ("\n\na: [", "line 4: while parsing a flow node, did not find expected node content. Correct the YAML there."),
        ("a: *b", "line 1: found undefined alias. Correct the YAML there."),
        ("a\n---\nb", "line 2: expected a single document in the stream, but found another document. Correct"),
        ("a: !!python/name:os.system x", "line 1: could not determine a constructor for the tag"),
        ("a: !!int abc", "line 1: value is no valid int. Correct it, or quote it if it is text."),
        ("a:\n  - " + "9" * 5000, "line 2: value is no valid int. Correct it, or quote it if it is text."),
        ("a: 2024-13-45", "line 1: value is no valid timestamp. Correct it, or quote it if it is text."),
        ("a: !!timestamp soon", "line 1: value is no valid timestamp. Correct it, or quote it if it is text."),
        ("a: !!bool perhaps", "line 1: value is no valid bool. Correct it, or quote it if it is text."),
        ("a:\n  - é\n  - \x07", "line 3: holds a character that YAML does not allow. Remove it."),
        ("a: " + "[" * 101, "line 1: is nested more than 100 levels deep. Use fewer levels."),
        ("- " * 1_000_000, "line 1: is nested more than 100 levels deep. Use fewer levels."),
        ("".join(" " * i + "a:\n" for i in range(150)), "line 101: is nested more than 100 levels deep."),
    ],
    ids=lambda text: text[:20] if len(text) < 30 else text[6:26],
)
def test_a_fault_has_its_place_and_a_remedy(text: str, expected: str) -> None:
    assert fault(text).startswith(f"my.yml: {expected}")


def test_aliases_cannot_nest_without_end() -> None:
    chain = "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 5000))
    assert fault(f"a0: &a0 [x]\n{chain}? *a4999\n: b\n") == "my.yml: is nested too deeply. Use fewer levels."


def test_what_nests_as_deep_as_is_allowed_is_read() -> None:
    assert strict_yaml.parse("[" * 100 + "]" * 100, SettingsError, "my.yml")


def test_no_tag_and_no_content_escape_as_another_exception() -> None:
    tags = ["int", "float", "bool", "null", "timestamp", "binary", "omap", "pairs", "set", "seq", "map", "str", "merge"]
    contents = ["abc", "", "''", "0x", "0b2", "1:99", "é", "[1, [2]]", "{a: 1}", "{? [a] : 1}", "{? !!set {a} : 1}"]
    escaped = []
    for tag, content in product([f"!!{tag} " for tag in tags] + [""], contents):
        for text in (f"a: {tag}{content}", f"? {tag}{content}\n: b", f"<<: {tag}{content}"):
            try:
                strict_yaml.parse(text, SettingsError, "my.yml")
            except SettingsError:
                pass
            except Exception as error:  # noqa: BLE001  # this is what is looked for
                escaped.append((text, error))
    assert escaped == []


def test_a_fault_quotes_no_value() -> None:
    for text in (
        "dsn: !!int s3cret",
        "dsn: 's3cret\n",
        "dsn: s3cret: x",
        "dsn: !!binary s3cret=",
        "dsn: !s3cret x",
        "dsn: *s3cret",
        "dsn: !s3'cret",
        "- s3cret\ndsn: x",
    ):
        assert "s3cret" not in fault(text)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "fifo": (_fifo, "is not a regular file. Name a file, not a folder, pipe or device."),
    "device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file. Name a file, not a folder, pipe or"),
    "folder": (Path.mkdir, "is not a regular file. Name a file, not a folder, pipe or device."),
    "large": (lambda path: path.write_bytes(b"# \n" * 2**20), "is larger than 1 MiB. Shorten or split it."),
    "binary": (lambda path: path.write_bytes(b"a: b\nc: \xff\n"), "cannot be read: line 2 is not UTF-8. Save the file"),
    "loop": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links. Correct its path"),
}


def _collectors(file: Path) -> None:
    load_catalog(file.parent)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("reader", "error", "named"),
    [(load_settings, SettingsError, str), (_collectors, CatalogError, lambda file: file.name),
     (read_values, ValuesError, lambda file: file.name)],
    ids=["settings", "collectors", "values"],
)  # fmt: skip
def test_an_odd_file_is_refused_by_every_reader(
    reader: Callable[[Path], object],
    error: type[PgvigilError],
    named: Callable[[Path], str],
    kind: str,
    tmp_path: Path,
) -> None:
    make, expected = KINDS[kind]
    make(tmp_path / "my.yaml")
    with pytest.raises(error) as caught:
        reader(tmp_path / "my.yaml")
    assert str(caught.value).startswith(f"{named(tmp_path / 'my.yaml')}: {expected}")


def test_yes_no_on_and_off_are_words_where_a_word_is_wanted_and_truth_values_where_one_is(tmp_path: Path) -> None:
    file = tmp_path / "my.yml"
    file.write_text(
        "pages: off\ncompatibility_names: yes\ncollectors: {locks: {enabled: no}}\n"
        "targets: [{name: on, dsn: host=a, labels: {country: no}}]\n"
    )
    found = load_settings(file)
    assert (found.pages, found.compatibility_names, found.collectors["locks"].enabled) == ("off", True, False)
    assert found.targets
    assert [(target.name, target.labels) for target in found.targets] == [("on", {"country": "no"})]


def test_a_user_may_be_called_no(tmp_path: Path) -> None:
    file = tmp_path / "web.yml"
    file.write_text("basic_auth_users: {no: $2y$10$QnmF8xtqKhT1HbTrUUDDAeSQZdAXWP1x5jFYzSXmTnXrA.X3gSQpS}\n")
    assert [*read_web_config(file).basic_auth_users] == ["no"]


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValuesError, match=r"^my.yml: cannot be read: No such file or directory. Correct its path or"):
        strict_yaml.load(tmp_path / "my.yml", ValuesError, "my.yml")


COMPARED = """
import sys
sys.modules["yaml._yaml"] = None
import yaml
from exporter.catalog.load import BUILT_IN, load
assert not yaml.__with_libyaml__
print(repr(load(BUILT_IN)))
"""


def test_without_libyaml_the_built_in_collectors_are_the_same() -> None:
    from exporter.catalog.load import BUILT_IN

    done = subprocess.run([sys.executable, "-c", COMPARED], capture_output=True, text=True, check=True)
    assert done.stdout == f"{load_catalog(BUILT_IN)!r}\n"
