"""libpq's connection strings, both forms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.connections.dsn import asyncpg_dsn
from exporter.errors import SettingsError


@pytest.mark.parametrize(
    ("dsn", "uri"),
    [
        ("", "postgresql://"),
        ("postgresql://u:p@h:5433/d?sslmode=require", "postgresql://u:p@h:5433/d?sslmode=require"),
        ("postgres://h1:1,h2:2/d", "postgres://h1:1,h2:2/d"),
        ("host=h port=5433 user=u dbname=d", "postgresql://?host=h&port=5433&user=u&dbname=d"),
        ("host = h   dbname='my db'", "postgresql://?host=h&dbname=my+db"),
        (r"password='it\'s \\ me' host=h", "postgresql://?password=it%27s+%5C+me&host=h"),
        (r"user=o\'hara host=h", "postgresql://?user=o%27hara&host=h"),
        ("host=/run/postgresql password=", "postgresql://?host=%2Frun%2Fpostgresql&password="),
        ("postgresql://h/d?application_name=x&connect_timeout=3&sslmode=prefer", "postgresql://h/d?sslmode=prefer"),
        ("hostaddr=192.0.2.1 dbname=d", "postgresql://?host=192.0.2.1&dbname=d"),
        ("host=h hostaddr=", "postgresql://?host=h"),
        ("host=2001:db8::1,h port=5432", "postgresql://?host=%5B2001%3Adb8%3A%3A1%5D%2Ch&port=5432"),
        ("hostaddr=::1", "postgresql://?host=%5B%3A%3A1%5D"),
        ("host=h keepalives_idle=5 gssencmode=prefer channel_binding=disable", "postgresql://?host=h"),
    ],
)
def test_a_connection_string_becomes_what_the_driver_takes(dsn: str, uri: str) -> None:
    assert asyncpg_dsn(dsn) == uri


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("mysql://u:s3cret@h/d", "dsn: a connection URI starts with postgresql://"),
        ("postgresql://u:s3cret/x@h/d", "dsn: not a URI; write the characters / ? # @ [ ] of a password as %2F"),
        ("postgresql://u:s3cret#x@h/d", "dsn: not a URI"),
        ("postgresql://u:[s3cret]@h/d", "dsn: not a URI"),
        ("localhost s3cret", "dsn: character 1: expected key=value"),
        ("host=h password='s3cret", "dsn: character 7: expected key=value"),
        ("host=h hostaddr=192.0.2.1 password=s3cret", "dsn: host and hostaddr: give one of them"),
        ("hostaddr=192.0.2.1 host=h", "dsn: host and hostaddr: give one of them"),
        ("postgresql://u:s3cret@h/d?hostaddr=192.0.2.1", "dsn: host and hostaddr: give one of them"),
        ("host=h channel_binding=require", "dsn: channel_binding=require cannot be kept"),
    ],
)
def test_a_bad_one_is_refused_without_being_repeated(dsn: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        asyncpg_dsn(dsn)
    assert str(caught.value).startswith(message)
    assert "s3cret" not in str(caught.value)


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])))
def test_any_password_survives_quoting(password: str) -> None:
    from urllib.parse import parse_qs, urlsplit

    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    query = parse_qs(urlsplit(asyncpg_dsn(f"host=h password='{quoted}'")).query, keep_blank_values=True)
    assert query["password"] == [password]
