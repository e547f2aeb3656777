"""Builds and runs images with the podman or docker there is; where no registry is, makes the base they stand on."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from servers import program

REPOSITORY = Path(__file__).parents[2]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"

BASE = (
    "--quiet",
    "--variant=minbase",
    "--include=python3,python3-venv",
    f"--customize-hook=mkdir -p $1/etc/ssl/certs && cp {CERTIFICATES} $1/etc/ssl/certs/",
    "--customize-hook=chroot $1 python3 -m venv /usr/local",
    "trixie",
)
"""A stand-in for python:3.13-slim-trixie: the same Debian, its own Python 3.13, and one with pip in /usr/local."""

HARDENED = ("--read-only", "--cap-drop=all", "--security-opt=no-new-privileges", "--network=host", "--no-healthcheck")
"""What a careful person runs a container with; its network is ours, since the server it asks listens on loopback."""

PODMAN_BUILD = ("--isolation=chroot", "--layers=false", "--format=docker")  # the OCI's format has no health check
PODMAN_RUN = (
    "--read-only-tmpfs=false",  # or /tmp and /run may be written
    "--cgroups=disabled",
    "--ulimit=nofile=4096:4096",  # podman asks for more than root may have on some machines
    "--ulimit=nproc=4096:4096",
)
UNIFIED = 'umount --recursive /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup && exec "$@"'
"""Podman's runtime takes the newer kind of control groups only: it gets those, in a mount namespace of its own."""

BUILD_SECONDS = 600  # on a machine that has much else to do
RUN_SECONDS = 60


@dataclass(frozen=True)
class Engine:
    """Podman or docker, as this machine has to call it."""

    command: tuple[str, ...]
    build_options: tuple[str, ...] = ()
    run_options: tuple[str, ...] = HARDENED

    def build(self, tag: str, /, **arguments: str) -> None:
        """Build our image with these build arguments."""
        values = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        options = ("--network=host", *self.build_options, *values, "--tag", tag)
        self.call("build", *options, str(REPOSITORY), seconds=BUILD_SECONDS)

    def run_command(self, image: str, *options: str, environment: Mapping[str, str]) -> list[str]:
        """The command that runs an image hardened until it ends; the image's own arguments may be added to it."""
        variables = [f"--env={name}={value}" for name, value in environment.items()]
        return [*self.command, "run", "--rm", *self.run_options, *variables, *options, image]

    def inspect(self, image: str) -> dict[str, Any]:
        """What the engine knows of an image."""
        [known] = json.loads(self.call("image", "inspect", image))
        return dict(known)

    def call(self, *arguments: str, seconds: float = RUN_SECONDS) -> str:
        """Call the engine, and give what it printed; when it fails, that is in the error."""
        return _called([*self.command, *arguments], seconds)


def engine() -> Engine:
    """The engine that TEST_ENGINE names, or that is there."""
    own = os.environ.get("TEST_ENGINE")
    found = program(own or "podman", "it, or docker, builds and runs the image", *([] if own else ["docker"]))
    if found.name == "docker":
        return Engine((str(found),))
    return Engine((*_as_podman_wants(), str(found)), PODMAN_BUILD, (*HARDENED, *PODMAN_RUN))


def make_base(engine: Engine, folder: Path, tag: str) -> None:
    """Make a base image from Debian's packages."""
    make = program("mmdebstrap", "it makes the base image; TEST_IMAGE_PYTHON names one instead")
    _called([str(make), *BASE, str(folder / "base.tar")], BUILD_SECONDS)
    engine.call("import", f"--change=ENV SSL_CERT_FILE={CERTIFICATES}", str(folder / "base.tar"), tag)


def _as_podman_wants() -> Sequence[str]:
    if os.geteuid() != 0 or Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return ()
    return ("unshare", "--mount", "sh", "-c", UNIFIED, "sh")


def _called(command: Sequence[str], seconds: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
