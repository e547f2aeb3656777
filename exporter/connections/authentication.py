"""Judges what a server asks for at login before the driver answers: `require_auth`, and a bound on hashing. Pure."""

import re
from dataclasses import dataclass

METHODS = ("password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none")
"""The methods that libpq knows; `none` is a login without a proof of the password."""

MOST_ITERATIONS = 1_000_000
"""Upper bound on the iterations of SCRAM, which the server chooses: half a second, in which no target is served.

PostgreSQL's own default is 4 096; 600 000 are recommended where passwords may be guessed.
"""

_OK, _SASL, _SASL_CONTINUE, _SASL_FINAL = 0, 10, 11, 12

_REQUESTS = {
    2: ("kerberos", "Kerberos 5"),
    3: ("password", "the password in cleartext"),
    5: ("md5", "the password as an MD5 hash"),
    7: ("gss", "GSSAPI"),
    9: ("sspi", "SSPI"),
    _SASL: ("scram-sha-256", "a SASL exchange"),
}
"""Code of a request -> the method, and what it asks for."""


def is_list_of_methods(require_auth: str) -> bool:
    """Return whether libpq takes this value of `require_auth`: methods, all of them negated or none, each once."""
    words = require_auth.split(",")
    names = [word.removeprefix("!") for word in words]
    is_uniform = len({word.startswith("!") for word in words}) == 1
    return is_uniform and set(names) <= set(METHODS) and len(set(names)) == len(names)


def is_allowed(method: str, require_auth: str) -> bool:
    """Return whether a value of `require_auth` allows a method; an empty one allows all."""
    words = require_auth.split(",")
    return not require_auth or (f"!{method}" not in words if require_auth.startswith("!") else method in words)


@dataclass
class Exchange:
    """The authentication of one login, request by request."""

    require_auth: str = ""
    is_over: bool = False
    """True once the server let us in."""
    _proved: str = "none"
    """The method that has been answered; that of a SASL exchange once the server has proved itself too."""
    _hashed: bool = False

    def refusal(self, request: bytes) -> str:
        """Return why a request, given without its head, is not to be answered; empty when it is."""
        code = int.from_bytes(request[:4], "big")
        if code in _REQUESTS:
            method, what = _REQUESTS[code]
            if code != _SASL:
                self._proved = method
            return self._unless_allowed(method, f"the server asks for {what}")
        if code == _SASL_CONTINUE:
            return self._hashing(request[4:])
        if code == _SASL_FINAL:
            self._proved = _REQUESTS[_SASL][0]
        if code == _OK:
            self.is_over = True
            how = "lets us in without a proof" if self._proved == "none" else "lets us in"
            return self._unless_allowed(self._proved, f"the server {how}")
        return ""

    def _unless_allowed(self, method: str, what: str) -> str:
        return (
            "" if is_allowed(method, self.require_auth) else f"{what}, which require_auth={self.require_auth} forbids"
        )

    def _hashing(self, challenge: bytes) -> str:
        """Bound what a challenge makes us compute; the driver computes for each one that comes."""
        if self._hashed:
            return "the server sent a second SCRAM challenge"
        self._hashed = True
        found = re.search(rb",i=0*(\d+)", challenge)
        if found and (len(found[1]) > len(str(MOST_ITERATIONS)) or int(found[1]) > MOST_ITERATIONS):
            return f"the server asks for more than {MOST_ITERATIONS} iterations of SCRAM; lower its scram_iterations"
        return ""
