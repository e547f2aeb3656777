"""The web configuration file: what exporter-toolkit documents is read, what is wrong is said with place and remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from exporter.errors import SettingsError
from exporter.web.web_config import CIPHERS, WebConfig, read_web_config

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
TLS = {"cert_file": "server.crt", "key_file": "server.key"}


def written(folder: Path, content: object) -> Path:
    """A file with this content."""
    file = folder / "web.yml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


@pytest.mark.parametrize("content", ["", "{}", "tls_server_config:\nbasic_auth_users:\n", "# nothing\n"])
def test_an_empty_file_changes_nothing(tmp_path: Path, content: str) -> None:
    assert read_web_config(written(tmp_path, content)) == WebConfig()


def test_every_documented_field_is_read(tmp_path: Path) -> None:
    config = read_web_config(
        written(
            tmp_path,
            {
                "tls_server_config": {
                    "cert_file": "certs/server.crt",
                    "key_file": "/etc/server.key",
                    "client_auth_type": "RequireAndVerifyClientCert",
                    "client_ca_file": "ca.crt",
                    "client_allowed_sans": ["prometheus.example.com"],
                    "min_version": "TLS12",
                    "max_version": "TLS13",
                    "cipher_suites": [*CIPHERS],
                    "prefer_server_cipher_suites": False,
                    "curve_preferences": ["X25519", "CurveP256", "CurveP384", "CurveP521"],
                },
                "http_server_config": {
                    "http2": False,
                    "headers": {
                        "Content-Security-Policy": "default-src 'self'",
                        "X-Frame-Options": "deny",
                        "X-Content-Type-Options": "nosniff",
                        "X-XSS-Protection": "1; mode=block",
                        "Strict-Transport-Security": "max-age=31536000",
                    },
                },
                "basic_auth_users": {"alice": HASH, "bob": HASH},
                "rate_limit": {"interval": "1m30s", "burst": 20},
            },
        )
    )
    tls = config.tls_server_config
    assert (tls.is_enabled, tls.verifies, tls.requires) == (True, True, True)
    assert tls.files == (tmp_path / "certs/server.crt", Path("/etc/server.key"), tmp_path / "ca.crt")
    assert tls.client_allowed_sans == ("prometheus.example.com",)
    assert config.http_server_config.headers["X-Frame-Options"] == "deny"
    assert (config.rate_limit.interval, config.rate_limit.burst) == (90.0, 20)
    assert [*config.basic_auth_users] == ["alice", "bob"]
    assert HASH not in repr(config)


@pytest.mark.parametrize(
    ("content", "same"),
    [
        ({"tls_server_config": {"cert_file": "", "key_file": "", "client_ca_file": ""}}, {}),
        ({"tls_server_config": {"cert": None, "min_version": None, "cipher_suites": None}}, {}),
        ({"tls_server_config": {**TLS, "cert": "", "client_auth_type": ""}}, {"tls_server_config": TLS}),
        ({"rate_limit": {"interval": None, "burst": None}}, {}),
        ({"http_server_config": {"headers": None}}, {}),
        (
            {"http_server_config": {"headers": {"X-XSS-Protection": 0, "X-Frame-Options": None}}},
            {"http_server_config": {"headers": {"X-XSS-Protection": "0", "X-Frame-Options": ""}}},
        ),
        (
            {"http_server_config": {"headers": {"Content-Security-Policy": " default-src 'self'; \n"}}},
            {"http_server_config": {"headers": {"Content-Security-Policy": "default-src 'self';"}}},
        ),
        ({"basic_auth_users": {1234: HASH}}, {"basic_auth_users": {"1234": HASH}}),
    ],
)
def test_what_the_toolkit_takes_for_nothing_or_a_text_is_taken_so(tmp_path: Path, content: Any, same: Any) -> None:
    assert read_web_config(written(tmp_path, content)) == read_web_config(written(tmp_path, same))


def test_users_are_called_as_they_are_written(tmp_path: Path) -> None:
    names = ("007", "0x10", "1_000", "true", "off", "1.50", "2026-12-01", "~user")
    config = read_web_config(written(tmp_path, "basic_auth_users:\n" + "".join(f"  {n}: {HASH}\n" for n in names)))
    assert tuple(config.basic_auth_users) == names


def test_numbers_and_truth_values_are_read_where_they_are_wanted(tmp_path: Path) -> None:
    text = "rate_limit: {interval: 1s, burst: 7}\nhttp_server_config: {http2: false}\n"
    config = read_web_config(written(tmp_path, text))
    assert (config.rate_limit.burst, config.http_server_config.http2) == (7, False)


@pytest.mark.parametrize(
    ("text", "seconds"), [("1s", 1), ("200ms", 0.2), ("1h2m3.5s", 3723.5), (".5s", 0.5), ("10us", 1e-5), (0, 0)]
)
def test_durations_are_those_of_go(tmp_path: Path, text: object, seconds: float) -> None:
    config = read_web_config(written(tmp_path, {"rate_limit": {"interval": text, "burst": 1}}))
    assert config.rate_limit.interval == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "line 2"),
        ("- a", "expected a mapping"),
        ({"basic_auth_usrs": None}, "basic_auth_usrs: no such key; did you mean basic_auth_users?"),
        ({"tls_server_config": {"cert_fil": ""}}, "tls_server_config.cert_fil: no such key; did you mean cert_file?"),
        ("root:$6$salt$abcdefghijklmnop:20228:0:99999:7:::", "(a key that is not repeated here): no such key"),
        (f"{HASH}: x", "(a key that is not repeated here): no such key"),
        ({"basic_auth_users": {"alice": 12345}}, "alice: its password is not hashed with bcrypt"),
        ({"tls_config": {}}, "tls_config: no such key; did you mean tls_server_config?"),
        ({"tls_server_config": {**TLS, "cert_fil": "x"}}, "tls_server_config.cert_fil"),
        ({"tls_server_config": {"cert_file": "c"}}, "neither key nor key_file is given"),
        ({"tls_server_config": {"key_file": "c"}}, "neither cert nor cert_file is given"),
        ({"tls_server_config": {**TLS, "cert": "PEM"}}, "both cert and cert_file are given"),
        ({"tls_server_config": {**TLS, "client_auth_type": "Verify"}}, "client_auth_type"),
        ({"tls_server_config": {**TLS, "client_ca_file": "ca"}}, "client_ca_file: no certificate is asked for"),
        ({"tls_server_config": {**TLS, "client_allowed_sans": []}}, "client_allowed_sans: no certificate is asked for"),
        (
            {"tls_server_config": {**TLS, "client_auth_type": "RequireAndVerifyClientCert"}},
            "neither client_ca nor client_ca_file is given",
        ),
        ({"tls_server_config": {**TLS, "min_version": "TLS10"}}, "TLS10 is no longer served"),
        ({"tls_server_config": {**TLS, "min_version": "TLS111"}}, "min_version"),
        ({"tls_server_config": {**TLS, "min_version": "TLS13", "max_version": "TLS12"}}, "is above max_version"),
        ({"tls_server_config": {**TLS, "cipher_suites": ["TLS_MADE_UP"]}}, "unknown cipher suite 'TLS_MADE_UP'"),
        ({"tls_server_config": {**TLS, "cipher_suites": ["TLS_AES_128_GCM_SHA256"]}}, "has none of TLS 1.2"),
        ({"tls_server_config": {**TLS, "curve_preferences": ["CurveP1"]}}, "curve_preferences.0"),
        ({"http_server_config": {"headers": {"Server": "x"}}}, "'Server' cannot be configured"),
        ({"http_server_config": {"headers": {"X-Frame-Options": "never"}}}, "'never' is no value of it"),
        ({"http_server_config": {"headers": {"X-XSS-Protection": "a\nb"}}}, "is no header"),
        ({"basic_auth_users": {"alice": "secret"}}, "alice: its password is not hashed with bcrypt"),
        ({"basic_auth_users": {"alice": HASH.replace("$10$", "$31$")}}, "cost 31 is not between 4 and 18"),
        ({"basic_auth_users": {"a:b": HASH}}, "no user has a colon"),
        ({"basic_auth_users": {"alice": HASH.replace("$2y$", "$2x$")}}, "is not hashed with bcrypt"),
        ({"rate_limit": {"interval": "1 second"}}, "'1 second' is no duration"),
        ({"rate_limit": {"interval": 5}}, "'5' is no duration"),
        ({"rate_limit": {"burst": -1}}, "rate_limit.burst"),
    ],
)
def test_what_is_wrong_is_said_with_file_place_and_remedy(tmp_path: Path, content: Any, said: str) -> None:
    file = written(tmp_path, content)
    with pytest.raises(SettingsError) as found:
        read_web_config(file)
    assert str(found.value).startswith(f"{file}: ")
    assert said in str(found.value)
    assert "secret" not in str(found.value)
