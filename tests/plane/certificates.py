"""Certificates for a plane and its nodes, and the files by which each knows the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from exeat.plane_access import Endpoint, PlaneAccess
from unit.fake_plane import TestAuthority


@dataclass(frozen=True)
class Authority:
    """One authority vouches for the plane and for its nodes."""

    signer: TestAuthority
    plane: PlaneAccess  # the plane's own files; it has no endpoints

    @property
    def ca(self) -> Path:
        """Its certificate."""
        return self.signer.ca

    def node(self, name: str, *ports: int, **how: str) -> PlaneAccess:
        """How a node reaches planes on this host."""
        certificate, key = self.signer.issue(name)
        return PlaneAccess(tuple(Endpoint("127.0.0.1", port) for port in ports), self.ca, certificate, key, **how)


def authority(directory: Path) -> Authority:
    """A new one, with a certificate for a plane on this host."""
    directory.mkdir(exist_ok=True)
    signer = TestAuthority(directory)
    certificate, key = signer.issue("localhost", "127.0.0.1", "::1", file="plane")
    return Authority(signer, PlaneAccess((), signer.ca, certificate, key))
