"""A page in pieces is one gzip stream, and its pieces are kept compressed only."""

import gzip
import tracemalloc

from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.compression import Block, gzipped, identity

TEXT = b"".join(b'pg_table_rows{relname="t%d"} %d\n' % (n, n * n) for n in range(20_000))


@given(st.lists(st.binary(max_size=300)))
def test_blocks_are_one_gzip_stream(texts: list[bytes]) -> None:
    blocks = [Block(text) for text in texts]
    assert gzip.decompress(b"".join(gzipped(blocks))) == b"".join(texts)


def test_any_order_of_blocks_that_stay_is_one_gzip_stream() -> None:
    first, second = Block(TEXT), Block(b"pg_up 1\n" * 77)
    for blocks in ([first, second], [second, first], [second, first, second]):
        assert gzip.decompress(b"".join(gzipped(blocks))) == identity(blocks)


def test_the_text_of_a_compressed_block_is_not_kept_until_it_is_asked_for() -> None:
    tracemalloc.start()
    try:
        block = Block(TEXT + b"\n")
        before = tracemalloc.get_traced_memory()[0]
        gzipped([block])
        assert tracemalloc.get_traced_memory()[0] < before - len(TEXT) / 2
    finally:
        tracemalloc.stop()
    assert block.text == TEXT + b"\n"
    assert block.text is block.text
