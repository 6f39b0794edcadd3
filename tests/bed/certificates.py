"""Certificates of a throw-away authority, made once per test session by the `openssl` program (EC P-256)."""

from __future__ import annotations

import atexit
import functools
import ipaddress
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

_CONFIG = """\
[req]
distinguished_name = subject
prompt = no
[subject]
"""  # an own one, for the machine's openssl.cnf would add extensions of its own


@dataclass(frozen=True)
class Certificate:
    """The files of a server certificate and its key."""

    chain: Path
    key: Path


class Authority:
    """Signs server certificates into a directory. `ca_file` is for the clients' --cacert."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._made: dict[tuple[str, ...], Certificate] = {}
        self._config = directory / "openssl.cnf"
        self._config.write_text(_CONFIG)
        self._leaf_key = directory / "leaf.key"
        self.ca_file = directory / "ca.pem"
        self._ca_key = directory / "ca.key"
        extensions = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign", "subjectKeyIdentifier=hash"]
        self._request("exeat test bed", self.ca_file, extensions, self._new_key(self._ca_key))

    def certificate(self, *names: str) -> Certificate:
        """A server certificate for these DNS names or IP addresses; the same names get the same one again."""
        if names not in self._made:
            key = ["-key", str(self._leaf_key)] if self._leaf_key.exists() else self._new_key(self._leaf_key)
            chain = self._directory / f"leaf{len(self._made)}.pem"
            extensions = [
                "subjectAltName=" + ",".join(("IP:" if _is_address(name) else "DNS:") + name for name in names),
                "basicConstraints=critical,CA:FALSE",
                "extendedKeyUsage=serverAuth",
                "authorityKeyIdentifier=keyid",
            ]
            signer = ["-CA", str(self.ca_file), "-CAkey", str(self._ca_key)]
            self._request(names[0][:64], chain, extensions, [*key, *signer])  # X.509 limits a CN to 64 characters
            self._made[names] = Certificate(chain, self._leaf_key)
        return self._made[names]

    def _new_key(self, file: Path) -> list[str]:
        return ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(file)]

    def _request(self, common_name: str, out: Path, extensions: list[str], options: list[str]) -> None:
        argv = ["openssl", "req", "-x509", "-config", str(self._config), "-subj", f"/CN={common_name}", "-days", "2"]
        for extension in extensions:
            argv += ["-addext", extension]
        done = subprocess.run([*argv, "-out", str(out), *options], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"openssl req failed: {done.stderr}")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@functools.cache
def session_authority() -> Authority:
    """The one authority of this process, in a directory that goes when the process ends."""
    directory = Path(tempfile.mkdtemp(prefix="exeat-bed-"))
    directory.chmod(0o755)  # clients that run as another user read ca.pem
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Authority(directory)
