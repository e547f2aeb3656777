"""Checks the credentials of clients: users of basic authentication, and bearer tokens."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from typing import Literal

Verdict = Literal["allowed", "refused", "busy"]

_MOST_WAITING = 16
"""Upper bound on the passwords that wait to be checked: each takes a tenth of a second of a core."""

_MOST_KNOWN = 1000
"""Upper bound on the passwords that are remembered as right."""

_MOST_BYTES = 72
"""Bytes of a password that bcrypt looks at."""

_SALT = secrets.token_bytes(32)
"""Keeps the digests of passwords in memory from being guessed; another one in each process."""

_NOBODY = "$2b${:02}$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
"""A hash that no password has, by its cost: an unknown user costs as much time as a wrong password."""


class Users:
    """Checks one password at a time, in a thread, and remembers those that were right.

    Args:
        hashes: user -> password, hashed with bcrypt.
        tokens: tokens that are let in without a user.
        earlier: those before a change of the files, whose passwords that were right are remembered.

    """

    def __init__(self, hashes: Mapping[str, str], tokens: Iterable[str] = (), earlier: "Users | None" = None) -> None:
        self._hashes = dict(hashes)
        self._tokens = [_digest(token.encode()) for token in tokens]
        self._cost = max(map(_cost, hashes.values()), default=10)
        self._nobody = _NOBODY.format(self._cost)
        self.known: set[bytes] = earlier.known if earlier else set()
        """Digests of the users, hashes and passwords that were right."""
        self._turn = asyncio.Lock()
        self._waiting = 0

    def __bool__(self) -> bool:
        """Return whether credentials are asked for."""
        return bool(self._hashes or self._tokens)

    async def judge(self, header: str) -> Verdict:
        """Judge the header Authorization of a request."""
        scheme, _, credentials = header.partition(" ")
        if scheme.lower() == "bearer":
            found = _digest(credentials.strip().encode())
            return "allowed" if any(hmac.compare_digest(found, token) for token in self._tokens) else "refused"
        if scheme.lower() != "basic":
            return "refused"
        try:
            user, colon, password = base64.b64decode(credentials, validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return "refused"
        return await self._check(user.decode(errors="replace"), password) if colon else "refused"

    async def _check(self, user: str, password: bytes) -> Verdict:
        is_known = user in self._hashes
        hashed = self._hashes.get(user, self._nobody)
        key = hmac.digest(_SALT, b"\0".join((user.encode(), hashed.encode(), password)), "sha256")
        if key in self.known:
            return "allowed"
        if self._waiting >= _MOST_WAITING:
            return "busy"
        self._waiting += 1
        try:
            async with self._turn:
                is_right = await asyncio.to_thread(_is_right, password, hashed, self._cost)
        finally:
            self._waiting -= 1
        if not is_right or not is_known:
            return "refused"
        if len(self.known) < _MOST_KNOWN:
            self.known.add(key)
        return "allowed"


def _cost(hashed: str) -> int:
    return int(hashed.split("$")[2])


def _is_right(password: bytes, hashed: str, cost: int) -> bool:
    """Check a password, in the time that the highest cost takes: each step of cost takes twice as long."""
    import bcrypt

    cut = password[:_MOST_BYTES]
    try:
        found = bcrypt.checkpw(cut, hashed.encode())
        for each in range(_cost(hashed), cost):
            bcrypt.checkpw(cut, _NOBODY.format(each).encode())
    except ValueError:
        return False
    return found


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
