"""Serves TLS by OpenSSL: Python's own ssl cannot ask for a client certificate without verifying it.

Imported where TLS is configured only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtensionOID
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from exporter import strict_yaml
from exporter.errors import SettingsError
from exporter.web.web_config import CIPHERS, TlsConfig

_VERSIONS = {"TLS12": SSL.TLS1_2_VERSION, "TLS13": SSL.TLS1_3_VERSION}

_GROUPS = {"CurveP256": "P-256", "CurveP384": "P-384", "CurveP521": "P-521", "X25519": "X25519"}

_MOST_OF_NAMES = 200
"""Characters of the names of a certificate that a line of the log repeats."""

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Cipher suites of TLS 1.2 without `cipher_suites`: forward secrecy and authenticated encryption."""


def context_of(config: TlsConfig) -> SSL.Context:
    """Make OpenSSL's context; SettingsError names the part that cannot be used and the remedy."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(_VERSIONS[config.min_version])
    context.set_max_proto_version(_VERSIONS[config.max_version])
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET)
    if config.prefer_server_cipher_suites:
        context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)  # a client is judged at each connection
    context.set_cipher_list(
        ":".join(filter(None, map(CIPHERS.get, config.cipher_suites))).encode() or _CIPHERS.encode()
    )
    if config.curve_preferences:
        groups = ":".join(_GROUPS[each] for each in config.curve_preferences).encode()
        lib.SSL_CTX_set1_curves_list(context._context, groups)  # noqa: SLF001  # pyOpenSSL has no method for it
    _use_certificate(context, config)
    if config.client_auth_type != "NoClientCert":
        _ask_for_certificate(context, config)
    return context


def _use_certificate(context: SSL.Context, config: TlsConfig) -> None:
    chain = _read("cert", config.cert, config.cert_file, x509.load_pem_x509_certificates)
    inline = config.key.get_secret_value()
    key = _read("key", inline, config.key_file, lambda pem: load_pem_private_key(pem, password=None))
    try:
        context.use_certificate(chain[0])
        for each in chain[1:]:
            context.add_extra_chain_cert(each)
    except SSL.Error as error:
        place = _place("cert", config.cert_file)
        raise SettingsError(f"{place}: OpenSSL refuses it: {reason_of(error)}. Issue another") from None
    try:
        context.use_privatekey(key)
        context.check_privatekey()
    except (SSL.Error, TypeError):
        raise SettingsError(
            f"{_place('key', config.key_file)}: is not the key of the certificate. Name its key"
        ) from None


def _ask_for_certificate(context: SSL.Context, config: TlsConfig) -> None:
    mode = SSL.VERIFY_PEER | (SSL.VERIFY_FAIL_IF_NO_PEER_CERT if config.requires else 0)
    if config.verifies:
        authorities = _read("client_ca", config.client_ca, config.client_ca_file, x509.load_pem_x509_certificates)
        store = context.get_cert_store()
        assert store  # noqa: S101  # of a context that is new
        store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # as Go has it, each of them is an authority
        for each in authorities:
            store.add_cert(crypto.X509.from_cryptography(each))
            context.add_client_ca(each)
    allowed = config.client_allowed_sans

    def judge(connection: SSL.Connection, certificate: Any, __: int, depth: int, is_verified: int) -> bool:
        if config.verifies and not is_verified:
            return False
        if depth > 0 or allowed is None or set(has := names(certificate)) & set(allowed):
            return True
        said = ", ".join(has)[:_MOST_OF_NAMES] or "it has none"
        connection.set_app_data(f"no name of its certificate is in client_allowed_sans: {said}")
        return False

    context.set_verify(mode, judge)


def names(certificate: crypto.X509) -> list[str]:
    """Return the alternative names of a certificate: of DNS, email addresses, IP addresses, URIs."""
    try:
        extensions = certificate.to_cryptography().extensions
        found = extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, ValueError):
        return []  # none that could be allowed
    assert isinstance(found, x509.SubjectAlternativeName)  # noqa: S101  # by its identifier
    kinds = (x509.DNSName, x509.RFC822Name, x509.IPAddress, x509.UniformResourceIdentifier)
    return [str(each.value) for each in found if isinstance(each, kinds)]


def reason_of(error: SSL.Error) -> str:
    """Return the last reason of OpenSSL's list of errors."""
    try:
        return str(error.args[0][-1][-1])
    except (IndexError, TypeError):
        return "the handshake was broken off"


def _read(name: str, inline: str, file: Path | None, load: Callable[[bytes], Any]) -> Any:
    """Read a part that is given inline or as a file, which is a regular one of bounded size."""
    place = _place(name, file)
    text = strict_yaml.read(file, SettingsError, place) if file else inline
    try:
        return load(text.encode())
    except (ValueError, TypeError):
        raise SettingsError(f"{place}: is not PEM, or needs a passphrase. Write it as PEM, without one") from None


def _place(name: str, file: Path | None) -> str:
    return f"tls_server_config.{name}_file: {file}" if file else f"tls_server_config.{name}"


class ServerTls:
    """Makes the TLS of each connection by the configuration of the moment."""

    def __init__(self, config: TlsConfig, context: SSL.Context) -> None:
        self.adopt(config, context)

    def adopt(self, config: TlsConfig, context: SSL.Context) -> None:
        """Go on with another configuration."""
        self.verifies = config.verifies
        """True where a certificate of a client has to come from one of the authorities."""
        self._context = context

    def connection(self) -> SSL.Connection:
        """Begin a handshake, whose bytes go through memory."""
        found = SSL.Connection(self._context, None)
        found.set_accept_state()
        return found
