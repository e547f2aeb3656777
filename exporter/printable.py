"""Escapes what cannot be printed: names and texts are data, and may hold what controls a terminal."""


def printable(text: str) -> str:
    """Return a text on one line, with escapes such as `\\x1b` for controls, line breaks and marks of direction."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
