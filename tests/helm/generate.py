"""Writes what repeats other things in the Helm chart: parts of its schema, values.yaml and the table in its README.

The schema is where values are described. It takes the exporter's settings, and the labels that alerts may not be given,
from the code; values.yaml and the table are made from it. With
`--check` it writes nothing and fails when a file is out of date.
"""

import json
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from exporter.commands.rules import TAKEN
from exporter.settings import Settings

CHART = Path(__file__).parents[2] / "helm" / "pgvigil"
SCHEMA = CHART / "values.schema.json"
VALUES = CHART / "values.yaml"
README = CHART / "README.md"

TABLE = ("<!-- values: written by tests/helm/generate.py -->\n", "<!-- end of values -->\n")

OF_THE_CHART = ("collectors_dir", "dsn", "dsn_file", "kind", "listen", "password_file", "state_dir", "targets")
"""Settings of the exporter that the chart makes itself, from other values."""


def files() -> dict[Path, str]:
    """Each file with what it should contain."""
    schema = _with_our_facts(json.loads(SCHEMA.read_text("utf-8")))
    before, rest = README.read_text("utf-8").split(TABLE[0])
    table = "| value | default | meaning |\n|---|---|---|\n" + "".join(f"{row}\n" for row in _rows(schema, schema))
    return {
        SCHEMA: json.dumps(schema, indent=2, ensure_ascii=False) + "\n",
        VALUES: _HEAD + "\n".join(_lines(schema, schema, 0)).lstrip("\n") + "\n",
        README: before + TABLE[0] + table + TABLE[1] + rest.split(TABLE[1])[1],
    }


def _with_our_facts(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema with what the code knows."""
    schema["properties"]["settings"]["properties"] = settings_schema()
    alerts = schema["properties"]["prometheusRule"]["properties"]["values"]["properties"]
    alerts["labels"]["propertyNames"]["not"]["anyOf"][1]["enum"] = sorted(TAKEN)
    return schema


def settings_schema() -> dict[str, Any]:
    """The exporter's settings that may be values, as JSON schema."""
    whole = Settings.model_json_schema()
    kept = {name: value for name, value in whole["properties"].items() if name not in OF_THE_CHART}
    plain: dict[str, Any] = _plain(kept, whole["$defs"])
    return plain


def _plain(part: Any, definitions: Mapping[str, Any]) -> Any:
    """A part of the schema without references, titles, defaults and nulls: a value that is not there says those."""
    if isinstance(part, list):
        return [_plain(each, definitions) for each in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        return _plain(definitions[part["$ref"].rpartition("/")[2]], definitions)
    kept = {key: value for key, value in part.items() if key not in ("title", "default")}
    if "patternProperties" in kept:
        kept["additionalProperties"] = False
    options = [each for each in kept.pop("anyOf", ()) if each != {"type": "null"}]
    return {key: _plain(value, definitions) for key, value in (kept | (options[0] if options else {})).items()}


_HEAD = """\
# Values of the pgvigil chart; README.md has them as a table. Written by tests/helm/generate.py from values.schema.json.

"""


def _lines(value: Mapping[str, Any], schema: Mapping[str, Any], depth: int) -> Iterator[str]:
    """The lines of values.yaml for the properties of an object."""
    indent = "  " * depth
    for name, each in value["properties"].items():
        if depth == 0:
            yield ""
        width = 110 - len(indent)
        yield from (f"{indent}# {line}" for line in textwrap.wrap(each["description"], width, break_on_hyphens=False))
        for example in each.get("examples", ()):
            yield from (f"{indent}#   {line}" for line in _yaml({name: example}))
        if "default" in each:
            yield from (indent + line for line in _yaml({name: each["default"]}))
        else:
            yield f"{indent}{name}:"
            yield from _lines(each, schema, depth + 1)


def _yaml(pair: Mapping[str, Any]) -> list[str]:
    [value] = pair.values()
    style = None if isinstance(value, dict | list) else False
    return yaml.safe_dump(dict(pair), sort_keys=False, default_flow_style=style, width=90).splitlines()


def _rows(value: Mapping[str, Any], schema: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The rows of the table for the properties of an object."""
    for name, each in value.get("properties", {}).items():
        described = _resolved(each, schema)
        default = f"`{json.dumps(described['default'])}`" if "default" in described else ""
        text = described.get("description", "").replace("|", r"\|")
        yield f"| `{path}{name}` | {default} | {text} |"
        if "items" in described:
            yield from _rows(_resolved(described["items"], schema), schema, f"{path}{name}[].")
        elif "default" not in described:
            yield from _rows(described, schema, f"{path}{name}.")


def _resolved(value: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """A part of the schema with what it refers to, which it may describe otherwise."""
    if "$ref" not in value:
        return dict(value)
    return {**schema["definitions"][value["$ref"].rpartition("/")[2]], **value}


def main(check: bool) -> int:
    """Write the files, or say which of them are out of date."""
    wrong = [file for file, text in files().items() if not file.is_file() or file.read_text("utf-8") != text]
    for file in wrong:
        if check:
            print(f"{file} is out of date; run: uv run python tests/helm/generate.py", file=sys.stderr)
        else:
            file.write_text(files()[file], "utf-8")
    return 1 if check and wrong else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
