"""What a server may ask for at login, and the demands of `require_auth`."""

import struct
from collections.abc import Callable

import hostile_server
import pytest
from patience import until
from pydantic import SecretStr

from exporter.connections.authentication import MOST_ITERATIONS, Exchange, is_list_of_methods
from exporter.connections.postgres import Postgres
from exporter.demo.cluster import Cluster
from exporter.errors import ConnectError

OK, PASSWORD, MD5, SASL, CONTINUE, FINAL = (struct.pack("!I", code) for code in (0, 3, 5, 10, 11, 12))

LOGINS = {
    "none": [OK],
    "password": [PASSWORD, OK],
    "md5": [MD5 + b"salt", OK],
    "scram-sha-256": [SASL + b"SCRAM-SHA-256\0\0", CONTINUE + b"r=a,s=b,i=4096", FINAL + b"v=a", OK],
    "gss": [struct.pack("!I", 7), struct.pack("!I", 8), OK],
}
"""Method -> the requests of a login by it."""

ALLOWED = {
    "": {*LOGINS},
    "scram-sha-256": {"scram-sha-256"},
    "md5,scram-sha-256": {"md5", "scram-sha-256"},
    "none": {"none"},
    "!none": {"password", "md5", "scram-sha-256", "gss"},
    "!password,!md5": {"none", "scram-sha-256", "gss"},
    "oauth": set(),
}
"""Value of require_auth -> the methods that it allows."""


def refusal(require_auth: str, requests: list[bytes]) -> str:
    """Why the first request that is not answered is not."""
    exchange = Exchange(require_auth)
    return next(filter(None, map(exchange.refusal, requests)), "")


@pytest.mark.parametrize("require_auth", ALLOWED)
def test_what_each_demand_allows(require_auth: str) -> None:
    assert {method for method, asked in LOGINS.items() if not refusal(require_auth, asked)} == ALLOWED[require_auth]


@pytest.mark.parametrize("value", ["md5,!password", "md5,md5", "scram", "md5,", ",", "!", "MD5"])
def test_values_that_libpq_refuses(value: str) -> None:
    assert not is_list_of_methods(value)


def test_a_server_that_skips_its_own_proof_is_none() -> None:
    assert refusal("scram-sha-256", [SASL + b"SCRAM-SHA-256\0\0", OK])
    assert refusal("scram-sha-256", [SASL + b"SCRAM-SHA-256\0\0", CONTINUE + b"r=a,s=b,i=1", OK])


@pytest.mark.parametrize(
    ("challenge", "is_refused"),
    [
        (b"r=a,s=b,i=4096", False),
        (b"r=a,s=b,i=%d" % MOST_ITERATIONS, False),
        (b"r=a,s=b,i=%d" % (MOST_ITERATIONS + 1), True),
        (b"r=a,s=b,i=2000000000", True),
        (b"r=a,s=b,i=" + b"9" * 5000, True),
        (b"r=a,s=b,i=" + b"0" * 5000 + b"1", False),
    ],
)
def test_the_iterations_are_bounded(challenge: bytes, is_refused: bool) -> None:
    assert bool(refusal("", [CONTINUE + challenge])) == is_refused


def test_a_password_is_hashed_once() -> None:
    assert refusal("", [CONTINUE + b"r=a,s=b,i=1"] * 2)


@pytest.mark.parametrize("asked", ["password", "md5", "none"])
async def test_nothing_is_sent_to_a_server_that_asks_for_what_is_not_allowed(asked: str) -> None:
    heard: list[bytes] = []
    async with hostile_server.listening(hostile_server.asking_for(asked, heard)) as dsn:
        with pytest.raises(ConnectError) as caught:
            await Postgres(SecretStr(f"{dsn}?require_auth=scram-sha-256&sslmode=disable")).connect()
        await until(lambda: heard)
    assert caught.value.reason == "authentication"
    assert "require_auth=scram-sha-256" in str(caught.value)
    assert heard == [b""]


@pytest.mark.parametrize("method", ["trust", "password", "md5", "scram-sha-256"])
@pytest.mark.parametrize("number", [17, 18])
async def test_a_server_gets_what_it_may_ask_for(cluster: Callable[..., Cluster], number: int, method: str) -> None:
    server = cluster(number, auth=method, password="s3cret")
    name = "none" if method == "trust" else method
    for demand in ("", name, f"{name},gss", "!oauth"):
        async with await Postgres(SecretStr(f"{server.dsn()}?require_auth={demand}")).connect() as session:
            assert session.is_usable
    for demand in (f"!{name}", "gss,sspi"):
        with pytest.raises(ConnectError) as caught:
            await Postgres(SecretStr(f"{server.dsn()}?require_auth={demand}")).connect()
        assert caught.value.reason == "authentication"
        assert f"require_auth={demand}" in str(caught.value)
        assert "s3cret" not in str(caught.value)
