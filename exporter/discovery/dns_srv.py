"""Servers by SRV records (RFC 2782): each names host and port. Blocking; its library is an extra."""

from exporter.connection_settings import SourceSettings
from exporter.discovery.member import Answer, Member
from exporter.errors import DiscoveryError, SettingsError

_SECONDS = 5.0


def dns_srv(source: SourceSettings) -> Answer:
    """Look the records up; DiscoveryError where there are none."""
    try:
        import dns.exception
        import dns.resolver
    except ImportError as error:
        raise SettingsError(f"{source.title}: needs its library: pip install 'pgvigil[dns]' ({error})") from None
    try:
        resolver = dns.resolver.Resolver()
        if source.resolver:
            host, _, port = source.resolver.rpartition(":")
            resolver.nameservers, resolver.port = [host], int(port)
        found = resolver.resolve(source.srv, "SRV", lifetime=_SECONDS)
    except (dns.exception.DNSException, ValueError) as error:
        raise DiscoveryError(f"{source.title}: {source.srv}: {error or type(error).__name__}") from None
    named = {(str(each.target).rstrip("."), int(each.port)) for each in found}
    hosts = sorted((host, port) for host, port in named if host)  # a dot alone says that there is no such service
    return Answer([Member(_name(host, port, hosts), host, port) for host, port in hosts])


def _name(host: str, port: int, hosts: list[tuple[str, int]]) -> str:
    """Name a server by its host, with its port where several servers are there."""
    is_alone = sum(other == host for other, _ in hosts) == 1
    return host if is_alone else f"{host}_{port}"
