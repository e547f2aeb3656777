"""libpq's connection strings, both forms, with service files and variables."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.connections.dsn import address_of, parameters
from exporter.errors import SettingsError


@pytest.mark.parametrize(
    ("dsn", "known"),
    [
        ("", {}),
        (
            "postgresql://u:p@h:5433/d?sslmode=require",
            {"user": "u", "password": "p", "host": "h", "port": "5433", "dbname": "d", "sslmode": "require"},
        ),
        ("postgres://h1:1,h2:2/d", {"host": "h1,h2", "port": "1,2", "dbname": "d"}),
        ("postgresql://h1,h2:2/d", {"host": "h1,h2", "port": ",2", "dbname": "d"}),
        ("postgresql://h1,h2/d?port=5", {"host": "h1,h2", "port": "5", "dbname": "d"}),
        ("postgresql://[2001:db8::1]:5,h/", {"host": "2001:db8::1,h", "port": "5,"}),
        ("postgresql:///d?host=/run/postgresql", {"host": "/run/postgresql", "dbname": "d"}),
        ("postgresql://%2Frun%2Fpostgresql/d", {"host": "/run/postgresql", "dbname": "d"}),
        ("postgresql://u%40x:p%2Fw@h/d%20b", {"user": "u@x", "password": "p/w", "host": "h", "dbname": "d b"}),
        ("postgresql://h/?password=a+b", {"host": "h", "password": "a+b"}),
        ("postgresql://h/?password=a%2Bb%26c", {"host": "h", "password": "a+b&c"}),
        ("postgresql://h/?password=p=q", {"host": "h", "password": "p=q"}),
        ("postgresql://u:a+b@h", {"user": "u", "password": "a+b", "host": "h"}),
        ("postgresql://h/?password=abc#def", {"host": "h", "password": "abc#def"}),
        ("postgresql://h/db#x", {"host": "h", "dbname": "db#x"}),
        ("postgresql://u:a\tb\nc@h", {"user": "u", "password": "a\tb\nc", "host": "h"}),
        ("postgresql://u:%C3%A9@h", {"user": "u", "password": "é", "host": "h"}),
        ("postgresql://h/?ssl=true", {"host": "h", "sslmode": "require"}),
        ("postgresql://h/?host=k", {"host": "k"}),
        ("postgresql://h/?requiressl=1", {"host": "h", "sslmode": "require"}),
        ("requiressl=1", {"sslmode": "require"}),
        ("requiressl=0", {"sslmode": "prefer"}),
        ("requiressl=1 sslmode=disable", {"sslmode": "disable"}),
        ("host=h port=5433 user=u dbname=d", {"host": "h", "port": "5433", "user": "u", "dbname": "d"}),
        ("host = h   dbname='my db'", {"host": "h", "dbname": "my db"}),
        (r"password='it\'s \\ me' host=h", {"password": "it's \\ me", "host": "h"}),
        (r"user=o\'hara host=h", {"user": "o'hara", "host": "h"}),
        ("host=h password=", {"host": "h"}),
        ("host=h user=a user=b", {"host": "h", "user": "b"}),
        ("postgresql://h/d?application_name=x&connect_timeout=3", {"host": "h", "dbname": "d"}),
        ("hostaddr=192.0.2.1 dbname=d", {"host": "192.0.2.1", "dbname": "d"}),
        ("host=h hostaddr=", {"host": "h"}),
        ("host=2001:db8::1,h port=5432", {"host": "2001:db8::1,h", "port": "5432"}),
        ("options='-c geqo=off -c work_mem=1MB'", {"options": "-c geqo=off -c work_mem=1MB"}),
    ],
)
def test_a_connection_string_is_read_as_libpq_reads_it(dsn: str, known: dict[str, str]) -> None:
    assert parameters(dsn, {}) == known


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("mysql://u:s3cret@h/d", "dsn: a connection URI starts with postgresql://"),
        ("postgresql://u:s3cret/x@h/d", "dsn: not a URI; write the characters / ? # @ [ ] of a password as %2F"),
        ("postgresql://u:s3cret#x@h/d", "dsn: not a URI"),
        ("postgresql://u:[s3cret]@h/d", "dsn: not a URI"),
        ("postgresql://u:s3@cret@h/d", "dsn: not a URI"),
        ("postgresql://u:s3cret", "dsn: port is no number"),
        ("postgresql://u:s3:cret", "dsn: port is no number"),
        ("postgresql://u:s3cret/d", "dsn: port is no number"),
        ("localhost s3cret", "dsn: character 1: expected key=value"),
        ("host=h password='s3cret", "dsn: character 7: expected key=value"),
        ("host=h hostaddr=192.0.2.1 password=s3cret", "dsn: host and hostaddr: give one of them"),
        ("hostaddr=192.0.2.1 host=h", "dsn: host and hostaddr: give one of them"),
        ("postgresql://u:s3cret@h/d?hostaddr=192.0.2.1", "dsn: host and hostaddr: give one of them"),
        ("host=h port=s3cret", "dsn: port is no number"),
        ("host=h port=0", "dsn: port is no number"),
        ("host=h port=70000", "dsn: port is no number"),
        ("host=h port=1,2", "dsn: 2 ports for 1 hosts"),
        ("host=127.0.0.1,", "dsn: host: one of the list is empty"),
        ("host=,", "dsn: host: one of the list is empty"),
        ("postgresql://h/?password=a&s3cret", "dsn: parameter 2 of the URI has no value"),
        ("postgresql://h/?password=a&s3cret=b", "dsn: parameter 2 of the URI has a name that libpq does not know"),
        ("host=h sslmod=require", "dsn: parameter 2 has a name that libpq does not know; did you mean sslmode?"),
        ("host=h statement_timeout=s3cret", "dsn: parameter 2 has a name that libpq does not know"),
        ("postgresql://u:s3cret@a/d,postgresql://u:s3cret@b/d", "dsn: names several servers, separated by commas"),
        ("postgres://a/d?sslmode=disable, postgres://b/d", "dsn: names several servers, separated by commas"),
        ("host=a password=s3cret,host=b password=s3cret", "dsn: names several servers, separated by commas"),
        ("postgresql://h/?password=s3cret%00", "dsn: a % of the URI has no two hexadecimal digits behind it"),
        ("postgresql://u:s3cret%zz@h/d", "dsn: a % of the URI has no two hexadecimal digits behind it"),
        ("postgresql://h/s3cret%", "dsn: a % of the URI has no two hexadecimal digits behind it"),
        ("postgresql://u:s3cret%E9@h/d", "dsn: %-encoded bytes of the URI are no UTF-8"),
    ],
)
def test_a_bad_one_is_refused_without_being_repeated(dsn: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parameters(dsn, {})
    assert str(caught.value).startswith(message)
    assert "s3cret" not in str(caught.value)


@given(st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1))
def test_any_password_survives_quoting(password: str) -> None:
    quoted = password.replace("\\", r"\\").replace("'", r"\'")
    assert parameters(f"host=h password='{quoted}'", {})["password"] == password


SECRET = "Zq7Zq7Zq7"


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                [SECRET, "postgresql://", "user", ":", "@", "/", "?", "&", "=", "password=", "host=h", "["]
            ),
            st.sampled_from(["port=", "sslmode=", "'", " ", ",", "%2F", "%", "#", "h:5", "options=", "service=", "\\"]),
        ),
        max_size=12,
    ).map("".join)
)
def test_a_secret_anywhere_in_a_string_is_never_repeated(dsn: str) -> None:
    assert SECRET not in message(dsn)


def message(dsn: str) -> str:
    """The complaint about a string, or the address that log lines would name; hosts are no secret."""
    try:
        known = parameters(dsn, {"HOME": "/nowhere"})
    except SettingsError as error:
        return str(error)
    return address_of({name: value for name, value in known.items() if name != "host"})


def test_the_string_wins_over_its_service_and_the_service_over_variables(tmp_path: Path) -> None:
    file = tmp_path / "services"
    file.write_text(
        "# ours\n[other]\nhost=other\n\n[mine]\nhost=of_service\nuser=of_service\ndbname=of_service\n[mine]\nport=9\n"
    )
    environment = {"PGSERVICEFILE": str(file), "PGUSER": "v", "PGHOST": "v", "PGPORT": "7", "PGPASSWORD": "v"}
    assert parameters("service=mine dbname=own", environment) == {
        "host": "of_service",
        "user": "of_service",
        "dbname": "own",
        "port": "7",
        "password": "v",
    }
    assert parameters("", environment | {"PGSERVICE": "other"})["host"] == "other"


@pytest.mark.parametrize("place", ["PGSERVICEFILE", "HOME", "PGSYSCONFDIR"])
def test_a_service_is_looked_for_where_libpq_looks(place: str, tmp_path: Path) -> None:
    name = {"PGSERVICEFILE": "any", "HOME": ".pg_service.conf", "PGSYSCONFDIR": "pg_service.conf"}[place]
    (tmp_path / name).write_text("[mine]\nhost=h\n")
    value = str(tmp_path / name) if place == "PGSERVICEFILE" else str(tmp_path)
    environment = {"HOME": "/nowhere"} | {place: value, "PGSERVICE": "mine"}
    assert parameters("", environment) == {"host": "h"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[mine]\npassword s3cret\n", "services: line 2: expected a parameter of libpq as key=value"),
        ("[mine]\nhost=h\ns3cret\n", "services: line 3: expected a parameter of libpq as key=value"),
        ("[mine]\ns3cret=x\n", "services: line 2: expected a parameter of libpq as key=value"),
        ("[mine]\nservice=s3cret\n", "services: line 2: expected a parameter of libpq as key=value"),
        ("[mine]\nrequire_auth=s3cret\n", "services: require_auth cannot be kept"),
        ("[mine\nhost=h\n", "dsn: service: it is in none of the service files"),
        ("password=s3cret\n", "dsn: service: it is in none of the service files"),
        ("[mine]\npassword=\udce9s3cret\x00\n", "services: password holds a NUL byte"),
    ],
)
def test_a_malformed_service_file_is_named_with_the_line_and_not_repeated(
    text: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "services"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError, match=re.escape(message)) as caught:
        parameters("service=mine", {"PGSERVICEFILE": str(file)})
    assert "s3cret" not in str(caught.value)


def test_a_service_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match="PGSERVICEFILE: /nowhere/services: cannot be read"):
        parameters("service=mine", {"PGSERVICEFILE": "/nowhere/services"})


@pytest.mark.parametrize(
    ("dsn", "address"),
    [
        ("", "localhost:5432"),
        ("postgresql://u:s3cret@h:5/d", "h:5"),
        ("host=a,b port=1,2", "a:1"),
        ("host=/run/postgresql", "/run/postgresql:5432"),
    ],
)
def test_the_address_names_the_first_server(dsn: str, address: str) -> None:
    assert address_of(parameters(dsn, {})) == address
