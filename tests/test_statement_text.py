"""A statement's text in few characters still tells it from others."""

import pytest

from exporter.statement_text import shortened

DJANGO = (
    'SELECT "shop_order"."id", "shop_order"."number", "shop_order"."status" FROM "shop_order" INNER JOIN'
    ' "shop_customer" ON ("shop_order"."customer_id" = "shop_customer"."id") WHERE ("shop_order"."status" = $1'
    ' AND "shop_customer"."region" = $2) ORDER BY "shop_order"."id" ASC LIMIT $3'
)
DJANGO_SHORT = (
    'SELECT … FROM "shop_order" INNER JOIN "shop_customer" ON (…) WHERE ("shop_order"."status" = $1'
    ' AND "shop_customer"."region" = $2) …'
)
LONG = ", ".join(f"deals.column_{i}" for i in range(40))


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [
        ("SELECT  1\n", 160, "SELECT 1"),
        ("  SELECT a\n\t  FROM t\nWHERE b = $1", 160, "SELECT a FROM t WHERE b = $1"),
        (
            f"SELECT {LONG} FROM deals JOIN users ON users.id = deals.owner WHERE deals.tenant_id = $1 ORDER BY 1",
            160,
            "SELECT … FROM deals JOIN users ON users.id = deals.owner WHERE deals.tenant_id = $1 ORDER BY 1",
        ),
        (f"INSERT INTO deals ({LONG}) VALUES ($1, $2)", 60, "INSERT INTO deals (…) VALUES ($1, $2)"),
        (
            f"UPDATE deals SET {LONG} WHERE id = $1 RETURNING {LONG}",
            60,
            "UPDATE deals SET … WHERE id = $1 RETURNING …",
        ),
        (
            f"WITH recent AS (SELECT {LONG} FROM deals) SELECT max(DISTINCT owner), 1 FROM recent WHERE a = ANY ($1)",
            60,
            "WITH recent AS (…) SELECT … FROM recent WHERE a = ANY ($1)",
        ),
        (f"SELECT a FROM t WHERE b = $1 GROUP BY {LONG}", 60, "SELECT a FROM t WHERE b = $1 …"),
        ('SELECT "a ( b" FROM "from" WHERE "where" = $1', 160, 'SELECT "a ( b" FROM "from" WHERE "where" = $1'),
        ("FETCH FORWARD 100 FROM a_cursor_of_a_long_name", 20, "FETCH FORWARD 100 F…"),
        (DJANGO, 160, DJANGO_SHORT),
        ("VACUUM", 160, "VACUUM"),
        ("", 160, ""),
    ],
)
def test_verb_tables_and_predicate_stay(text: str, length: int, short: str) -> None:
    assert shortened(text, length) == short
    assert len(short) <= length


def test_a_predicate_in_small_letters_stays_as_well() -> None:
    tables = ", ".join(f"deals_{i}" for i in range(40))
    assert shortened(f"select a from {tables} where tenant_id = $1", 100).endswith("… where tenant_id = $1")


def test_of_a_long_predicate_and_many_tables_both_have_their_share() -> None:
    tables = " JOIN ".join(f"table_{i} USING (id)" for i in range(30))
    found = shortened(f"SELECT a FROM {tables} WHERE tenant_id = $1 AND created_at > $2", 160)
    assert len(found) <= 160
    assert found.startswith("SELECT a FROM table_0 USING (id) JOIN table_1")
    assert found.endswith("… WHERE tenant_id = $1 AND created_at > $2")


@pytest.mark.parametrize("length", [1, 2, 16, 40, 160])
@pytest.mark.parametrize("text", ["SELECT " * 50, "((((" * 50, '"' * 101, "é" * 500, "SELECT (a FROM ) WHERE " * 20])
def test_whatever_the_text_the_bound_holds(text: str, length: int) -> None:
    assert len(shortened(text, length)) <= length
