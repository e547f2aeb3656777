"""Chooses the format by what a client accepts."""

from dataclasses import dataclass

from prometheus_client import exposition


@dataclass(frozen=True)
class Format:
    """An exposition format: text 0.0.4, or OpenMetrics 1.0."""

    openmetrics: bool
    content_type: str

    @property
    def end(self) -> bytes:
        """The last line of a page."""
        return b"# EOF\n" if self.openmetrics else b""


def negotiate(accept: str) -> Format:
    """Choose the format by the client's Accept header; an unreadable header counts as none."""
    try:
        content_type = exposition.choose_encoder(accept)[1]
    except TypeError:  # a version that is no number
        content_type = exposition.choose_encoder("")[1]
    return Format(content_type.startswith("application/openmetrics-text"), content_type)
