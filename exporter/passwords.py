"""Takes passwords out of what is shown: in errors, in the log, on the command line."""

import re

_IN_A_URI = re.compile(r"(:/+[^\s:/@]*:)\S*(?=@)")
_IN_A_PAIR = re.compile(r"(\b(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s'&]+)")
_HASH = re.compile(r"\$[0-9a-z]{1,8}\$[./+A-Za-z0-9$=,]{8,}")
"""A password as bcrypt and crypt hash it."""


def without_passwords(text: str) -> str:
    """Take the passwords out of connection strings, which may stand where something else was asked for."""
    return _HASH.sub("***", _IN_A_PAIR.sub(r"\1***", _IN_A_URI.sub(r"\1***", text)))
