"""Samples -> bytes: whole pages in both formats, and what prometheus-client's parsers read from them."""

import gzip
import math
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import Parsed, read_whole
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from exporter.catalog.model import Metric
from exporter.exposition.compression import Block, gzip_accepted, gzipped, identity
from exporter.exposition.negotiation import Format, negotiate
from exporter.exposition.text_format import block
from exporter.samples.label_values import label_text
from exporter.samples.model import Family

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def metric(name: str, kind: str, text: str = "Help.") -> Metric:
    """A metric by name."""
    return Metric.model_validate({"name": name, "type": kind, "help": text, "column": "a"})


FAMILIES = [
    Family(
        metric("pg_commits_total", "counter", 'Say "commits"\nand \\ more.'), ['datname="a"', 'datname="b"'], [12, None]
    ),
    Family(metric("pg_up", "gauge"), [""], [1]),
    Family(metric("pg_commits_total", "counter"), ['datname="c"'], [3]),
    Family(metric("pg_old", "untyped"), ['x="1"', 'x="2"', 'x="3"', 'x="4"'], [math.nan, math.inf, -math.inf, 1e300]),
    Family(metric("pg_empty", "gauge"), [], []),
    Family(metric("pg_null", "gauge"), [""], [None]),
]

TEXT = r"""# HELP pg_commits_total Say "commits"\nand \\ more.
# TYPE pg_commits_total counter
pg_commits_total{datname="a"} 12
pg_commits_total{datname="c"} 3
# HELP pg_up Help.
# TYPE pg_up gauge
pg_up 1
# HELP pg_old Help.
# TYPE pg_old untyped
pg_old{x="1"} NaN
pg_old{x="2"} +Inf
pg_old{x="3"} -Inf
pg_old{x="4"} 1e+300
"""

OPENMETRICS = r"""# HELP pg_commits Say \"commits\"\nand \\ more.
# TYPE pg_commits counter
pg_commits_total{datname="a"} 12
pg_commits_total{datname="c"} 3
# HELP pg_up Help.
# TYPE pg_up gauge
pg_up 1
# HELP pg_old Help.
# TYPE pg_old unknown
pg_old{x="1"} NaN
pg_old{x="2"} +Inf
pg_old{x="3"} -Inf
pg_old{x="4"} 1e+300
# EOF
"""


@pytest.mark.parametrize(
    ("accept", "page"), [("", TEXT), ("*/*", TEXT), (PROMETHEUS_2, OPENMETRICS), (PROMETHEUS_3, OPENMETRICS)]
)
def test_a_whole_page_in_the_format_that_the_client_accepts(accept: str, page: str) -> None:
    form = negotiate(accept)
    assert identity([block(FAMILIES, form.openmetrics), Block(form.end)]).decode() == page


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=0.0.4", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("application/openmetrics-text;version=x", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=.", "text/plain; version=0.0.4; charset=utf-8"),
    ],
)
def test_the_content_type_is_what_prometheus_client_negotiates(accept: str, content_type: str) -> None:
    assert negotiate(accept).content_type.startswith(content_type)


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=20)
values = st.one_of(st.none(), st.integers(-(2**63), 2**64), st.floats())
rows = st.dictionaries(texts, values, max_size=5)


def same(left: float, right: float) -> bool:
    """Equal, or both NaN."""
    return left == right or (math.isnan(left) and math.isnan(right))


@given(rows, st.sampled_from(["gauge", "untyped"]))
def test_the_parsers_read_what_went_in(row: dict[str, float | None], kind: str) -> None:
    """Whatever the label text and the number: both parsers give back the same samples."""
    family = Family(metric("pg_any", kind), [label_text({"x": text}) for text in row], list(row.values()))
    wanted = {text: float(value) for text, value in row.items() if value is not None}
    for form, parse in (
        (Format(False, ""), parser.text_string_to_metric_families),
        (Format(True, ""), openmetrics_parser.text_string_to_metric_families),
    ):
        page = identity([block([family], form.openmetrics), Block(form.end)]).decode()
        found = {sample.labels["x"]: sample.value for parsed in parse(page) for sample in parsed.samples}
        assert found.keys() == wanted.keys()
        assert all(same(float(found[text]), wanted[text]) for text in wanted)


@given(st.lists(st.binary(max_size=3000), max_size=8))
def test_blocks_compressed_apart_are_one_gzip_stream(parts: list[bytes]) -> None:
    """One member, so that clients which read only the first member miss nothing."""
    stream = b"".join(gzipped([Block(part) for part in parts]))
    assert gzip.decompress(stream) == b"".join(parts)
    decompress = zlib.decompressobj(31)
    assert decompress.decompress(stream) == b"".join(parts)
    assert decompress.eof
    assert decompress.unused_data == b""


@given(
    st.lists(st.binary(max_size=3000), max_size=8).flatmap(
        lambda parts: st.tuples(st.just(parts), st.permutations(parts))
    )
)
def test_a_block_may_stand_elsewhere_on_the_next_page(pages: tuple[list[bytes], list[bytes]]) -> None:
    """Its cached checksum is of another beginning then; gzip refuses a wrong one."""
    blocks = {part: Block(part) for part in pages[0]}
    for page in (*pages, pages[0]):
        assert gzip.decompress(b"".join(gzipped([blocks[part] for part in page]))) == b"".join(page)


@pytest.mark.parametrize(
    ("header", "is_accepted"),
    [
        ("gzip", True),
        ("gzip;q=1.0,identity;q=0.5", True),
        ("gzip;q=0.5", True),
        ("gzip;q=0", False),
        ("identity, GZIP ; q=0.000", False),
        ("gzip;q=0,identity", False),
        ("identity", False),
        ("", False),
    ],
)
def test_gzip_is_sent_to_those_who_take_it(header: str, is_accepted: bool) -> None:
    assert gzip_accepted(header) == is_accepted


def test_tests_read_each_metric_as_prometheus_client_reads_the_whole_page() -> None:
    text = (Path(__file__).parents[1] / "alerts" / "golden" / "primary18.prom").read_text("utf-8")
    assert dict(Parsed(text)) == read_whole(text).samples
