"""Certificates as a web configuration names them: of a server, of clients, and of authorities that nobody trusts."""

import datetime
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    cert: Path
    key: Path

    @property
    def arguments(self) -> tuple[str, str]:
        """As httpx takes them."""
        return str(self.cert), str(self.key)


class Authorities:
    """Makes certificates in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._trusted = trustme.CA()
        self._foreign = trustme.CA(organization_name="somebody else")
        self.ca = folder / "ca.pem"
        self._trusted.cert_pem.write_to_path(self.ca)

    @cached_property
    def server(self) -> Pair:
        """That of 127.0.0.1."""
        return self.issued("server", "127.0.0.1", "localhost")

    def issued(
        self, name: str, *names: str, is_foreign: bool = False, not_after: datetime.datetime | None = None
    ) -> Pair:
        """Issue a certificate for these names."""
        ca = self._foreign if is_foreign else self._trusted
        made = ca.issue_cert(*names, not_after=not_after)
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        made.cert_chain_pems[0].write_to_path(pair.cert)
        made.private_key_pem.write_to_path(pair.key)
        return pair

    def self_signed(self, name: str, *names: str) -> Pair:
        """Make one that no authority has issued."""
        pair = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        made = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}")
        also = ("-addext", f"subjectAltName={','.join(f'DNS:{each}' for each in names)}")
        files = ("-out", str(pair.cert), "-keyout", str(pair.key))
        subprocess.run(["openssl", "req", "-x509", *made, *also, *files], check=True, capture_output=True)
        return pair

    def trust_the_others(self, file: Path) -> None:
        """Have a file of authorities name the one that nobody trusts, and no other."""
        self._foreign.cert_pem.write_to_path(file)

    @property
    def config(self) -> dict[str, object]:
        """The least of `tls_server_config`."""
        return {"cert_file": self.server.cert.name, "key_file": self.server.key.name}
