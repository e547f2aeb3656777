"""Takes passwords out of what is shown: in errors, in the log, on the command line."""

import re

_IN_A_URI = re.compile(r"(:/+[^\s:/@]*:)\S*(?=@)")
_IN_A_PAIR = re.compile(r"(\b(?:ssl)?password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s'&]+)")


def without_passwords(text: str) -> str:
    """Take the passwords out of connection strings, which may stand where something else was asked for."""
    return _IN_A_PAIR.sub(r"\1***", _IN_A_URI.sub(r"\1***", text))
