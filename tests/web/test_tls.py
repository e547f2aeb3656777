"""TLS as the web configuration has it, asked by curl's and openssl's own TLS: who gets in, by what, and renewals."""

import datetime
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from pages import read
from patience import SECONDS, wait_until
from serving import Exporter, run, serving
from web.authorities import Authorities, Pair

ROTATION_SECONDS = float(os.environ.get("ROTATION_SECONDS", "0"))

REFUSED = (httpx.TransportError, ssl.SSLError)

EXPIRED = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)

CLIENTS = ("none", "verified", "of another name", "foreign", "self-signed", "expired")

HAVING = {*CLIENTS} - {"none"}
"""Those that have a certificate."""


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    """Certificates in a folder, where the configuration is as well."""
    return Authorities(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def clients(authorities: Authorities) -> Mapping[str, Pair | None]:
    """Certificates of clients, good and bad."""
    return {
        "none": None,
        "verified": authorities.issued("prometheus", "prometheus.example.com", "10.0.0.7"),
        "of another name": authorities.issued("grafana", "grafana.example.com"),
        "foreign": authorities.issued("foreign", "prometheus.example.com", is_foreign=True),
        "self-signed": authorities.self_signed("self-signed", "prometheus.example.com"),
        "expired": authorities.issued("expired", "prometheus.example.com", not_after=EXPIRED),
    }


def configured(folder: Path, name: str = "web.yml", **content: Any) -> str:
    """A web configuration file."""
    (folder / name).write_text(yaml.safe_dump(content))
    return str(folder / name)


def asked(exporter: Exporter, authorities: Authorities, client: Pair | None = None, path: str = "/healthz") -> int:
    """The status of an answer over TLS; 0 where there is none."""
    context = ssl.create_default_context(cafile=str(authorities.ca))
    if client:
        context.load_cert_chain(*client.arguments)
    try:
        return httpx.get(exporter.url.replace("http:", "https:") + path, verify=context, timeout=20).status_code
    except REFUSED:
        return 0


def s_client(exporter: Exporter, *options: str) -> str:
    """What openssl says of a handshake."""
    address = exporter.url.removeprefix("http://")
    done = subprocess.run(
        ["openssl", "s_client", "-connect", address, *options],
        input=b"", capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    return (done.stdout + done.stderr).decode(errors="replace")


@pytest.mark.parametrize(
    ("policy", "let_in"),
    [
        pytest.param("NoClientCert", {*CLIENTS}, marks=pytest.mark.full),
        pytest.param("RequestClientCert", {*CLIENTS}, marks=pytest.mark.full),
        pytest.param("RequireAnyClientCert", HAVING, marks=pytest.mark.full),
        pytest.param("RequireClientCert", HAVING, marks=pytest.mark.full),
        pytest.param("VerifyClientCertIfGiven", {"none", "verified", "of another name"}, marks=pytest.mark.full),
        ("RequireAndVerifyClientCert", {"verified", "of another name"}),
    ],
)
def test_each_policy_lets_in_whom_it_should(
    policy: str, let_in: set[str], authorities: Authorities, clients: Mapping[str, Pair | None]
) -> None:
    verifies = "Verify" in policy
    tls = {**authorities.config, "client_auth_type": policy, **({"client_ca_file": "ca.pem"} if verifies else {})}
    config = configured(authorities.folder, f"{policy}.yml", tls_server_config=tls)
    with serving(web_config_file=config, targets="[]") as exporter:
        found = {name for name, client in clients.items() if asked(exporter, authorities, client) == 200}
    assert found == let_in


@pytest.mark.full
def test_only_allowed_names_get_in(authorities: Authorities, clients: Mapping[str, Pair | None]) -> None:
    for names, let_in in (
        (["prometheus.example.com"], {"verified"}),
        (["10.0.0.7", "nobody"], {"verified"}),
        (["grafana.example.com"], {"of another name"}),
        ([], set()),
    ):
        tls = {
            **authorities.config,
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": "ca.pem",
            "client_allowed_sans": names,
        }
        config = configured(authorities.folder, "names.yml", tls_server_config=tls)
        with serving(web_config_file=config, targets="[]") as exporter:
            found = {name for name, client in clients.items() if asked(exporter, authorities, client) == 200}
            exporter.process.terminate()
            log = exporter.process.communicate()[1]
        assert found == let_in, names
        refused = len({"verified", "of another name"} - let_in)
        assert log.count("no name of its certificate is in client_allowed_sans: ") == refused, log


@pytest.mark.full
@pytest.mark.parametrize(
    ("tls", "options", "is_served"),
    [
        ({}, ("-tls1_2",), True),
        ({}, ("-tls1_3",), True),
        ({}, ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), False),
        ({}, ("-tls1", "-cipher", "ALL:@SECLEVEL=0"), False),
        ({"min_version": "TLS13"}, ("-tls1_2",), False),
        ({"max_version": "TLS12"}, ("-tls1_3",), False),
        ({}, ("-tls1_2", "-cipher", "AES128-SHA:@SECLEVEL=0"), False),
        (
            {"cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]},
            ("-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"),
            False,
        ),
        ({"curve_preferences": ["CurveP521"]}, ("-groups", "P-521"), True),
        ({"curve_preferences": ["CurveP521"]}, ("-groups", "P-384"), False),
    ],
)
def test_protocols_cipher_suites_and_curves_are_those_configured(
    tls: dict[str, Any], options: tuple[str, ...], is_served: bool, authorities: Authorities
) -> None:
    config = configured(authorities.folder, "ciphers.yml", tls_server_config={**authorities.config, **tls})
    with serving(web_config_file=config, targets="[]") as exporter:
        said = s_client(exporter, *options)
    assert ("Cipher is (NONE)" not in said) == is_served, said


@pytest.mark.full
@pytest.mark.parametrize(("is_ours", "suite"), [(True, "AES256"), (False, "AES128")])
def test_the_cipher_suite_is_chosen_by_the_server_or_the_client(
    is_ours: bool, suite: str, authorities: Authorities
) -> None:
    suites = [
        f"TLS_ECDHE_{kind}_WITH_AES_{size}"
        for kind in ("ECDSA", "RSA")
        for size in ("256_GCM_SHA384", "128_GCM_SHA256")
    ]
    tls = {**authorities.config, "cipher_suites": suites, "prefer_server_cipher_suites": is_ours}
    config = configured(authorities.folder, "order.yml", tls_server_config=tls)
    order = ":".join(
        f"ECDHE-{kind}-AES{size}" for size in ("128-GCM-SHA256", "256-GCM-SHA384") for kind in ("ECDSA", "RSA")
    )
    with serving(web_config_file=config, targets="[]") as exporter:
        assert suite in s_client(exporter, "-tls1_2", "-cipher", order).partition("Cipher is ")[2][:40]


def test_a_whole_page_and_requests_on_one_connection_go_over_tls(authorities: Authorities) -> None:
    inline = {"cert": authorities.server.cert.read_text(), "key": authorities.server.key.read_text()}
    config = configured(authorities.folder, "inline.yml", tls_server_config=inline)
    context = ssl.create_default_context(cafile=str(authorities.ca))
    with serving(web_config_file=config, targets="[]") as exporter:
        with httpx.Client(base_url=exporter.url.replace("http:", "https:"), verify=context) as client:
            pages = [client.get("/metrics").text for _ in range(3)]
            page = client.get("/collectors").text
            large = client.get("/api/v1/openapi.json")
        with pytest.raises(httpx.TransportError):
            httpx.get(exporter.url + "/healthz")
    assert all("pgvigil_build_info" in page for page in pages)
    assert "<html" in page
    assert len(large.content) == int(large.headers["Content-Length"]) > 20_000
    assert large.json()["openapi"]


@pytest.mark.full
def test_a_certificate_is_revoked_with_its_authority_or_its_name(
    authorities: Authorities, clients: Mapping[str, Pair | None]
) -> None:
    """The toolkit reads no lists of revoked certificates: who is to stay out is not named any more."""
    ca = authorities.folder / "clients.pem"
    ca.write_bytes(authorities.ca.read_bytes())
    asks = {**authorities.config, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": ca.name}

    def write(*names: str) -> str:
        tls = {**asks, "client_allowed_sans": [*names]} if names else asks
        return configured(authorities.folder, "revoked.yml", tls_server_config=tls)

    with serving(web_config_file=write(), targets="[]") as exporter:

        def let_in() -> set[str]:
            return {name for name in HAVING if asked(exporter, authorities, clients[name])}

        assert let_in() == {"verified", "of another name"}
        write("prometheus.example.com")
        wait_until(lambda: let_in() == {"verified"}, every=0.5)
        write()
        authorities.trust_the_others(ca)
        wait_until(lambda: let_in() == {"foreign"}, every=0.5)


@pytest.mark.full
def test_a_certificate_is_renewed_without_a_scrape_that_fails(authorities: Authorities) -> None:
    """The files are written one after another, so for a moment the key is not that of the certificate.

    With ROTATION_SECONDS=60 it goes on for a minute.
    """
    served = authorities.issued("renewed", "127.0.0.1")
    tls = {"cert_file": served.cert.name, "key_file": served.key.name}
    config = configured(authorities.folder, "renewed.yml", tls_server_config=tls)
    with serving(web_config_file=config, targets="[]") as exporter:
        began, statuses, numbers = time.monotonic(), list[int](), set[str]()
        while len(numbers) < 2 or time.monotonic() - began < ROTATION_SECONDS:
            assert time.monotonic() - began < SECONDS + ROTATION_SECONDS
            statuses.append(asked(exporter, authorities, path="/metrics"))
            numbers.add(s_client(exporter).partition("BEGIN CERT")[2][:800])
            if len(statuses) == 4:
                new = authorities.issued("renewal", "127.0.0.1")
                served.cert.write_bytes(new.cert.read_bytes())
                time.sleep(4)
                served.key.write_bytes(new.key.read_bytes())
            time.sleep(0.9)
        print(f"{statuses.count(200)} of {len(statuses)} scrapes")
        assert set(statuses) == {200}
        assert len(numbers) == 2
        (authorities.folder / "renewed.yml").write_text("tls_server_config: {")
        context = ssl.create_default_context(cafile=str(authorities.ca))
        place = exporter.url.replace("http:", "https:") + "/metrics"
        wait_until(lambda: "pgvigil_web_config_success 0" in httpx.get(place, verify=context).text, every=0.5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cert_file": "missing.pem"}, "tls_server_config.cert_file: {folder}/missing.pem: cannot be read"),
        ({"key_file": "server.pem"}, "tls_server_config.key_file: {folder}/server.pem: is not PEM"),
        ({"cert_file": "server.key"}, "tls_server_config.cert_file: {folder}/server.key: is not PEM"),
        (
            {"key_file": "other.key"},
            "key_file: {folder}/other.key: is not the key of the certificate",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_said_at_the_start(
    change: dict[str, str], said: str, authorities: Authorities
) -> None:
    authorities.issued("other", "127.0.0.1")
    weak = ["-keyout", "weak.key", "-out", "weak.pem", "-subj", "/CN=127.0.0.1"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:1024", "-nodes", *weak], cwd=authorities.folder, check=True
    )
    if not (authorities.folder / "pipe").exists():
        os.mkfifo(authorities.folder / "pipe")
    tls = {**authorities.config, **change}
    config = configured(authorities.folder, "broken.yml", tls_server_config=tls)
    done = run("serve", web_config_file=config, targets="[]", listen="127.0.0.1:0")
    assert done.returncode == 1
    assert f"{authorities.folder / 'broken.yml'}: tls_server_config." in done.stderr
    assert said.format(folder=authorities.folder) in done.stderr


@pytest.mark.full
def test_hundreds_who_say_nothing_keep_out_nobody(authorities: Authorities) -> None:
    """Handshakes that do not begin make room for others, as connections without a request do."""
    config = configured(authorities.folder, "silent.yml", tls_server_config=authorities.config)
    with serving(web_config_file=config, targets="[]") as exporter, ExitStack() as stack:
        host, port = exporter.url.removeprefix("http://").split(":")
        for _ in range(600):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=10))
        assert [asked(exporter, authorities, path="/metrics") for _ in range(5)] == [200] * 5
        stack.enter_context(socket.create_connection((host, int(port)), timeout=10)).sendall(b"no TLS at all\r\n")
        context = ssl.create_default_context(cafile=str(authorities.ca))
        place = exporter.url.replace("http:", "https:") + "/metrics"
        page = httpx.get(place, verify=context).text
        refused = read(page).value("pgvigil_http_refused_total", reason="tls")
        assert refused == 2  # the other is the plain request by which it was found ready


def test_now_has_a_certificate(authorities: Authorities, clients: Mapping[str, Pair | None]) -> None:
    asks = {**authorities.config, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}
    pair = clients["verified"]
    assert pair
    with serving(web_config_file=configured(authorities.folder, "now.yml", tls_server_config=asks), targets="[]") as it:
        url = it.url.replace("http:", "https:")
        files = dict(zip(("--cert-file", "--key-file"), pair.arguments, strict=True))
        options = [word for option in files.items() for word in option]
        done = run("now", "--url", url, "--ca-file", str(authorities.ca), *options)
        assert (done.stderr, done.stdout[:30]) == ("", "The exporter watches no server")
        assert "certificate verify failed" in run("now", "--url", url, *options).stderr
        without = run("now", "--url", url, "--ca-file", str(authorities.ca))
        assert (without.returncode, without.stdout) == (2, "")


@pytest.mark.full
def test_a_connection_from_before_certificates_were_asked_for_has_none(authorities: Authorities) -> None:
    file = authorities.folder / "later.yml"
    config = configured(authorities.folder, file.name, tls_server_config=authorities.config)
    context = ssl.create_default_context(cafile=str(authorities.ca))
    client = authorities.issued("late", "prometheus.example.com")
    with serving(web_config_file=config, targets="[]", pages="authenticated") as exporter:
        place = exporter.url.replace("http:", "https:")
        with httpx.Client(base_url=place, verify=context) as early:
            assert early.get("/collectors").status_code == 403
            asks = {**authorities.config, "client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "ca.pem"}
            file.write_text(yaml.safe_dump({"tls_server_config": asks}))
            wait_until(lambda: not asked(exporter, authorities), every=0.5)
            assert early.get("/collectors").status_code == 403
        assert asked(exporter, authorities, client, "/collectors") == 200


@pytest.mark.parametrize("policy", ["", "NoClientCert", "RequireAndVerifyClientCert"])
@pytest.mark.parametrize("is_variable", [True, False])
def test_the_health_check_of_the_image_sees_it_live_and_dead(
    policy: str, is_variable: bool, authorities: Authorities
) -> None:
    tls = {**authorities.config, "client_auth_type": policy}
    if "Verify" in policy:
        tls["client_ca_file"] = "ca.pem"
    config = configured(authorities.folder, "health.yml", tls_server_config=tls)
    with serving(targets="[]", **({"web_config_file": config} if policy else {})) as exporter:
        address = exporter.url.removeprefix("http://")
        variables = {"PGVIGIL_LISTEN": address, "PGVIGIL_WEB_CONFIG_FILE": config if is_variable else ""}

        def asked_for_health() -> int:
            command = [sys.executable, "-m", "exporter.commands.alive"]
            return subprocess.run(command, env={**os.environ, **variables}, check=False).returncode

        assert asked_for_health() == 0
        port = address.rpartition(":")[2]
        for other in (f"0.0.0.0:{port}", f":{port}", f"[::]:{port}", f"{address},127.0.0.2:1"):
            variables["PGVIGIL_LISTEN"] = other
            assert asked_for_health() == 0, other
        exporter.process.kill()
        exporter.process.wait()
        assert asked_for_health() == 1


def test_what_follows_the_end_of_a_connection_is_not_read(authorities: Authorities) -> None:
    config = configured(authorities.folder, "after.yml", tls_server_config=authorities.config)
    context = ssl.create_default_context(cafile=str(authorities.ca))
    with serving(web_config_file=config, targets="[]") as exporter:
        host, port = exporter.url.removeprefix("http://").split(":")
        for first in (b"GARBAGE\r\n\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
            raw = socket.create_connection((host, int(port)), timeout=10)
            with context.wrap_socket(raw, server_hostname="127.0.0.1") as client:
                client.sendall(first)
                client.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
                said = b""
                while piece := client.recv(65536):
                    said += piece
            assert said.count(b"HTTP/1.1 ") == 1
        exporter.process.terminate()
        log = exporter.process.communicate(timeout=20)[1]
    assert "Traceback" not in log
