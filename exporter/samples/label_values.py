"""Escapes and bounds the values of labels, and writes names in the place of OIDs. Pure."""

from collections.abc import Mapping
from typing import Any

from exporter.catalog.model import Collector
from exporter.literals import without_literals
from exporter.planning.label_columns import text_column
from exporter.planning.oid_names import Names
from exporter.samples.model import Columns
from exporter.statement_text import shortened

MOST_CHARACTERS = 1024
"""Upper bound on the characters of a label's value; a longer one is cut and ends in an ellipsis."""


def label_values(collector: Collector, table: Columns, names: Names) -> dict[str, list[str]]:
    """Write every label column as text, OIDs as names."""
    texts = {}
    for label in collector.all_labels:
        if label in collector.statement_texts:
            texts[label] = [_statement(value, collector.text_length) for value in table[label]]
        elif label in table:
            kind = collector.names.get(label)
            column = table.get(text_column(label), table[label])
            texts[label] = names.text(kind, column) if kind else list(map(_text, column))
    return texts


def label_texts(collector: Collector, table: Columns, names: Names) -> dict[str, list[str]]:
    """Write every label column as escaped text, OIDs as names."""
    return {label: escaped(column) for label, column in label_values(collector, table, names).items()}


def escaped(column: list[str]) -> list[str]:
    """Cut and escape a column; nearly all need nothing, which one look at all of them together tells."""
    together = "".join(column)
    if len(together) > MOST_CHARACTERS and max(map(len, column)) > MOST_CHARACTERS:
        column = [text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…" for text in column]
        together = "".join(column)
    return list(map(escape, column)) if escape(together) != together else column


def _text(value: Any) -> str:
    if type(value) is str:
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):  # the type "char", or a text of another database
        return value.decode(errors="replace")
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _statement(value: Any, length: int) -> str:
    """Write the text of a statement: no literal of it, and the parts that tell most where it is too long."""
    return shortened(without_literals(_text(value)), length) if length else ""


def label_text(labels: Mapping[str, str]) -> str:
    """Write the labels of one sample as they stand between the braces."""
    return ",".join(f'{name}="{escape(value)}"' for name, value in labels.items())


def escape(value: str) -> str:
    r"""Escape what the exposition formats reserve in a label value: backslash, quote and newline."""
    if "\\" in value or '"' in value or "\n" in value:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return value
