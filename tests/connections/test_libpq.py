"""Every parameter of libpq is honoured, replaced or refused by name: one test for each row of LIBPQ.md."""

import os
import subprocess
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import pq
from pydantic import SecretStr

from exporter.connections import libpq
from exporter.connections.driver_arguments import NO_FILE, driver_arguments
from exporter.connections.dsn import parameters
from exporter.connections.postgres import Postgres
from exporter.demo.build import hand_over
from exporter.demo.cluster import Cluster
from exporter.errors import ConnectError, SettingsError

HONOURED: dict[str, tuple[str, dict[str, Any]]] = {
    "host": ("/run/a", {"host": "/run/a"}),
    "hostaddr": ("192.0.2.1", {"host": "192.0.2.1"}),
    "port": ("5433", {"port": 5433}),
    "dbname": ("d d", {"database": "d d"}),
    "user": ("u", {"user": "u"}),
    "password": ("a+b c", {"password": "a+b c"}),
    "passfile": ("PASSFILE", {"password": "of the file"}),  # read by ourselves
    "options": ("-c geqo=off", {"server_settings": {"options": "-c geqo=off"}}),
    "target_session_attrs": ("standby", {"target_session_attrs": "standby"}),
    "sslmode": ("verify-full", {"dsn": "postgresql://?sslmode=verify-full"}),
    "sslnegotiation": ("direct", {"dsn": "postgresql://?sslnegotiation=direct"}),
    "sslrootcert": ("/a b", {"dsn": "postgresql://?sslrootcert=%2Fa%20b"}),
    "sslcert": ("FILE", {"dsn": "postgresql://?sslcert=FILE"}),
    "sslkey": ("FILE", {"dsn": "postgresql://?sslkey=FILE"}),
    "sslpassword": ("a+b", {"dsn": "postgresql://?sslpassword=a%2Bb"}),
    "sslcrl": ("/a", {"dsn": "postgresql://?sslcrl=%2Fa"}),
    "ssl_min_protocol_version": ("TLSv1.3", {"dsn": "postgresql://?ssl_min_protocol_version=TLSv1.3"}),
    "ssl_max_protocol_version": ("TLSv1.2", {"dsn": "postgresql://?ssl_max_protocol_version=TLSv1.2"}),
    "krbsrvname": ("x", {"krbsrvname": "x"}),
    "gsslib": ("gssapi", {"gsslib": "gssapi"}),
    "require_auth": ("!password,!none", {}),  # kept by ourselves, at the edge to the driver
}
"""Parameter -> a value, and what the driver gets."""

REPLACED = {
    "application_name": "x",
    "fallback_application_name": "x",
    "client_encoding": "LATIN1",
    "connect_timeout": "3",
    "keepalives": "0",
    "keepalives_idle": "1",
    "keepalives_interval": "1",
    "keepalives_count": "1",
    "tcp_user_timeout": "1",
    "sslcompression": "1",
    "channel_binding": "prefer",
    "gssencmode": "disable",
    "sslcertmode": "allow",
    "sslsni": "1",
    "min_protocol_version": "3.0",
    "max_protocol_version": "latest",
    "gssdelegation": "0",
    "load_balance_hosts": "disable",
    "replication": "false",
}
"""Parameter -> a value that is taken and changes nothing."""

REFUSED = {
    "require_auth": "scram-sha-256,!md5",
    "channel_binding": "require",
    "gssencmode": "require",
    "sslmode": "perhaps",
    "sslnegotiation": "perhaps",
    "sslcertmode": "disable",
    "sslsni": "0",
    "sslcrldir": "/a",
    "sslkeylogfile": "/a",
    "requirepeer": "postgres",
    "ssl_min_protocol_version": "SSLv3",
    "ssl_max_protocol_version": "2",
    "min_protocol_version": "3.2",
    "max_protocol_version": "4",
    "gsslib": "x",
    "gssdelegation": "1",
    "load_balance_hosts": "random",
    "replication": "database",
    "target_session_attrs": "x",
    "scram_client_key": "s3cret",
    "scram_server_key": "s3cret",
    "oauth_issuer": "s3cret",
    "oauth_client_id": "s3cret",
    "oauth_client_secret": "s3cret",
    "oauth_scope": "s3cret",
}
"""Parameter -> a demand that this exporter cannot keep."""


def test_the_table_has_the_parameters_and_the_variables_of_libpq() -> None:
    theirs = {each.keyword.decode(): (each.envvar or b"").decode() for each in pq.Conninfo.get_defaults()}
    assert {parameter.name: parameter.variable for parameter in libpq.PARAMETERS} == theirs
    assert {*HONOURED, *REPLACED, *REFUSED, "service"} == set(theirs)


@pytest.mark.parametrize("name", HONOURED)
def test_an_honoured_parameter_reaches_the_driver_from_string_and_variable(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").touch()
    (tmp_path / "PASSFILE").write_text("*:*:*:*:of the file")
    (tmp_path / "PASSFILE").chmod(0o600)
    value, expected = HONOURED[name]
    known = parameters(f"{name}='{value}'", {})
    usual = {"dsn": "postgresql://", "user": "anybody", "passfile": NO_FILE}
    assert driver_arguments({"user": "anybody"} | known) == usual | expected
    if variable := libpq.BY_NAME[name].variable:
        assert parameters("", {variable: value}) == known


@pytest.mark.parametrize("name", REPLACED)
def test_a_replaced_parameter_changes_nothing(name: str) -> None:
    assert parameters(f"{name}={REPLACED[name]}", {}) == {}
    if variable := libpq.BY_NAME[name].variable:
        assert parameters("", {variable: REPLACED[name]}) == {}


@pytest.mark.parametrize("name", REFUSED)
def test_a_demand_that_cannot_be_kept_is_refused_by_name_wherever_it_comes_from(name: str, tmp_path: Path) -> None:
    value, variable = REFUSED[name], libpq.BY_NAME[name].variable
    file = tmp_path / "services"
    file.write_text(f"[mine]\n{name}={value}\n")
    places = [(f"{name}={value}", {}, "dsn"), ("service=mine", {"PGSERVICEFILE": str(file)}, str(file))]
    places += [("", {variable: value}, variable)] if variable else []
    for dsn, environment, place in places:
        with pytest.raises(SettingsError) as caught:
            parameters(dsn, environment)
        assert str(caught.value).startswith(f"{place}: {name} cannot be kept as given. ")
        assert "s3cret" not in str(caught.value)


def test_a_variable_that_the_string_overrides_demands_nothing() -> None:
    assert parameters("channel_binding=prefer", {"PGCHANNELBINDING": "require"}) == {}


REQUIRING = [
    ("", {"PGREQUIRESSL": "1"}),
    ("", {"PGREQUIRESSL": "1yes", "PGSSLMODE": ""}),
    ("", {"PGREQUIRESSL": "0"}),
    ("", {"PGREQUIRESSL": ""}),
    ("", {"PGREQUIRESSL": "1", "PGSSLMODE": "allow"}),
    ("", {"PGREQUIRESSL": "1", "PGSERVICE": "mine"}),
    ("sslmode=disable", {"PGREQUIRESSL": "1"}),
    ("requiressl=1", {"PGSSLMODE": "disable"}),
]
"""Strings and variables, the deprecated ones among them."""


@pytest.mark.parametrize(("dsn", "environment"), REQUIRING)
def test_deprecated_demands_for_tls_are_kept_as_libpq_keeps_them(
    dsn: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "services").write_text("[mine]\nsslmode=verify-ca\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    for name, value in environment.items():
        if value or name != "PGSSLMODE":  # libpq refuses an empty one
            monkeypatch.setenv(name, value)
    theirs = {each.keyword: (each.val or b"").decode() for each in pq.Conninfo.get_defaults()}
    theirs |= {each.keyword: each.val.decode() for each in pq.Conninfo.parse(dsn.encode()) if each.val}
    assert parameters(dsn).get("sslmode", "prefer") == theirs[b"sslmode"]


async def test_no_session_goes_unencrypted_where_the_environment_asks_for_tls(
    server18: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build of 18 knows no TLS."""
    monkeypatch.setenv("PGREQUIRESSL", "1")
    with pytest.raises(ConnectError, match="rejected SSL upgrade"):
        await Postgres(SecretStr(server18.dsn())).connect()


def test_the_page_is_what_the_table_says() -> None:
    assert (Path(libpq.__file__).parents[1] / "LIBPQ.md").read_text("utf-8") == libpq.table()


@pytest.mark.parametrize("name", ["sslrootcert", "sslcrl", "sslcert", "sslkey"])
async def test_a_file_that_is_missing_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"dsn: {name}: /nowhere/file: no file that can be read"):
        await Postgres(SecretStr(f"host=127.0.0.1 sslmode=require {name}=/nowhere/file")).connect()


KEY = "-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n"


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose certificate and key are its owner's only."""
    monkeypatch.setenv("HOME", str(tmp_path))
    folder = tmp_path / ".postgresql"
    folder.mkdir()
    for name, text in {"postgresql.crt": "certificate", "postgresql.key": KEY}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o600)
    return folder


@pytest.mark.parametrize(
    ("mode", "owner", "is_refused"),
    [
        (0o600, 0, False),
        (0o400, 1, False),
        (0o640, 0, False),
        (0o440, 0, False),
        (0o640, 1, True),
        (0o440, 1, True),
        (0o620, 0, True),
        (0o644, 0, True),
        (0o604, 1, True),
    ],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "usual"])
def test_a_private_key_that_others_may_use_is_refused_as_libpq_does(
    certificate: Path, mode: int, owner: int, is_refused: bool, named: bool
) -> None:
    key = certificate / "postgresql.key"
    if os.geteuid() and owner == 0:
        pytest.skip("a file that root owns takes root")
    key.chmod(mode)
    if not os.geteuid():
        os.chown(key, owner, -1)
    known = {"host": "db", "user": "u"} | ({"sslkey": str(key)} if named else {})
    if not is_refused:
        driver_arguments(known)
        return
    with pytest.raises(SettingsError, match=f"^dsn: sslkey: {key}: others than its owner .*Give it mode 0600"):
        driver_arguments(known)
    with pytest.raises(SettingsError, match=r"^dsn: sslkey: "):
        driver_arguments(known | {"sslrootcert": "system"})
    for unused in ({"sslmode": "disable"}, {"host": "/run"}):
        driver_arguments(known | unused)


def test_a_private_key_in_the_file_of_the_certificate_is_refused_too(certificate: Path) -> None:
    (certificate / "postgresql.key").unlink()
    file = certificate / "postgresql.crt"
    file.chmod(0o644)
    driver_arguments({"host": "db", "user": "u"})
    file.write_text(KEY)
    with pytest.raises(SettingsError, match=f"^dsn: sslcert: {file}: others than its owner"):
        driver_arguments({"host": "db", "user": "u"})


async def test_libpq_and_we_refuse_the_same_key(encrypted: Cluster, tmp_path: Path) -> None:
    cert, key = tmp_path / "client.crt", tmp_path / "client.key"
    cert.write_bytes((encrypted.data / "server.crt").read_bytes())
    key.write_bytes((encrypted.data / "server.key").read_bytes())
    dsn = f"host=localhost port={encrypted.port} user=pgvigil dbname=postgres sslmode=require"
    dsn += f" sslcert={cert} sslkey={key}"
    key.chmod(0o600)
    psycopg.connect(dsn).close()
    assert await tls(dsn)
    key.chmod(0o644)
    with pytest.raises(psycopg.OperationalError, match="has group or world access"):
        psycopg.connect(dsn)
    with pytest.raises(SettingsError, match="others than its owner may use the private key"):
        await tls(dsn)


def test_the_cas_of_the_system_take_full_verification_only() -> None:
    assert driver_arguments({"sslrootcert": "system"})["ssl"].check_hostname
    with pytest.raises(SettingsError, match="sslmode=verify-full only"):
        driver_arguments({"sslrootcert": "system", "sslmode": "require"})


async def test_a_plus_in_the_password_of_a_uri(cluster: Callable[..., Cluster]) -> None:
    server = cluster(auth="scram-sha-256", password="a+b")
    dsn = f"postgresql://postgres@127.0.0.1:{server.port}/postgres?password=a+b"
    async with await Postgres(SecretStr(dsn)).connect() as session:
        assert session.is_usable


async def test_variables_and_a_service_reach_a_server(
    server18: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pg_service.conf").write_text(f"[here]\nport={server18.port}\nuser=pgvigil\noptions=-c geqo=off\n")
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    monkeypatch.setenv("PGSERVICE", "here")
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    monkeypatch.setenv("PGDATABASE", "postgres")
    async with await Postgres(SecretStr("")).connect() as session:
        [row] = await session.rows("SELECT current_user AS role, current_setting('geqo') AS geqo", 5)
    assert dict(row) == {"role": "pgvigil", "geqo": "off"}


@pytest.fixture
def encrypted(cluster: Callable[..., Cluster], tool: Callable[[str, str], Path]) -> Cluster:
    """A server with a certificate for the name localhost; the build of 18 knows no TLS."""
    server = cluster(17)
    server.stop()
    files = [server.data / "server.key", server.data / "server.crt"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command: list[object] = [
        tool("openssl", "it comes with every system"),
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        *subject,
    ]
    command += ["-keyout", files[0], "-out", files[1]]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    for file in files:
        file.chmod(0o600)
        hand_over(file)
    with (server.data / "postgresql.conf").open("a") as conf:
        conf.write("ssl = on\n")
    server.start()
    return server


async def expiry(dsn: str) -> float | None:
    """When the certificate expires that a new session is shown."""
    async with await Postgres(SecretStr(dsn)).connect() as session:
        return session.certificate_expires_at


def end_of(certificate: Path) -> float:
    """When a certificate ends, as openssl reads it."""
    command = ["openssl", "x509", "-noout", "-enddate", "-dateopt", "iso_8601", "-in", str(certificate)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return datetime.fromisoformat(said.strip().removeprefix("notAfter=")).timestamp()


async def test_the_end_of_a_certificate_that_is_checked_is_known(encrypted: Cluster) -> None:
    host, ca = f"host=localhost port={encrypted.port} user=pgvigil dbname=postgres", encrypted.data / "server.crt"
    end = end_of(ca)
    assert await expiry(f"{host} sslmode=verify-full sslrootcert={ca}") == end
    assert await expiry(f"{host} sslmode=verify-ca sslrootcert={ca} sslnegotiation=direct") == end
    assert await expiry(f"{host} sslmode=require") is None
    assert await expiry(f"{host} sslmode=disable") is None


async def tls(dsn: str) -> bool:
    """Whether a session is encrypted."""
    async with await Postgres(SecretStr(dsn)).connect() as session:
        [row] = await session.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", 5)
    return bool(row["ssl"])


async def test_certificates_are_checked_as_asked(encrypted: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    host, ca = f"host=localhost port={encrypted.port} user=pgvigil dbname=postgres", encrypted.data / "server.crt"
    assert await tls(f"{host} sslmode=verify-full sslrootcert={ca}")
    assert await tls(f"{host} sslmode=require sslnegotiation=direct")
    assert not await tls(f"{host} sslmode=disable")
    with pytest.raises(ConnectError) as caught:
        await tls(f"{host} sslrootcert=system")
    assert caught.value.reason == "authentication"
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    assert await tls(f"{host} sslrootcert=system")
    assert await tls(f"{host} sslrootcert=system sslnegotiation=direct sslmode=verify-full")
    with pytest.raises(ConnectError) as caught:
        await tls(f"{host.replace('localhost', '127.0.0.1')} sslrootcert=system")
    assert caught.value.reason == "authentication"


def revocations(server: Cluster, folder: Path) -> tuple[Path, Path]:
    """A revocation list of the server's CA that is empty, and one with the server's certificate."""
    ca, key, config = server.data / "server.crt", server.data / "server.key", folder / "ca.conf"
    config.write_text(
        f"[ca]\ndefault_ca = own\n[own]\ndatabase = {folder}/index.txt\ndefault_md = sha256\ndefault_crl_days = 30\n"
    )
    (folder / "index.txt").touch()
    none, revoked = folder / "none.crl", folder / "revoked.crl"
    sign = ["openssl", "ca", "-config", str(config), "-cert", str(ca), "-keyfile", str(key)]
    for more in (["-gencrl", "-out", str(none)], ["-revoke", str(ca)], ["-gencrl", "-out", str(revoked)]):
        subprocess.run([*sign, *more], check=True, capture_output=True)
    return none, revoked


@pytest.mark.parametrize("root", ["file", "system"])
async def test_a_certificate_that_was_revoked_is_refused(
    encrypted: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    ca = encrypted.data / "server.crt"
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    none, revoked = revocations(encrypted, tmp_path)
    dsn = f"host=localhost port={encrypted.port} user=pgvigil dbname=postgres sslmode=verify-full"
    dsn += f" sslrootcert={'system' if root == 'system' else ca}"
    assert await tls(f"{dsn} sslcrl={none}")
    with pytest.raises(ConnectError, match="revoked") as caught:
        await tls(f"{dsn} sslcrl={revoked}")
    assert caught.value.reason == "authentication"
    with pytest.raises(SettingsError, match="dsn: sslcrl: /nowhere: no file that can be read"):
        await tls(f"{dsn} sslcrl=/nowhere")
