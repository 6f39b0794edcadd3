"""The host's resolv.conf is read as the host's own programs read it."""

from ipaddress import ip_address
from pathlib import Path

import pytest

from exeat.dns.resolv_conf import host_servers


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("nameserver 203.0.113.1\n", ["203.0.113.1"]),
        ("nameserver\t203.0.113.1 # ours\nnameserver 2001:db8::53", ["203.0.113.1", "2001:db8::53"]),
        ("nameserver fe80::1%eth0\n", ["fe80::1%eth0"]),
        ("# nameserver 203.0.113.9\n;nameserver 203.0.113.9\n nameserver 203.0.113.9\nnameserver 203.0.113.1\n",
         ["203.0.113.1"]),
        ("search corp.test\noptions edns0\nnameserver 203.0.113.1\nnameservers 203.0.113.9\n", ["203.0.113.1"]),
        ("nameserver\nnameserver dns.test\nnameserver 203.0.113.300\nnameserver 203.0.113.1\n", ["203.0.113.1"]),
        ("".join(f"nameserver 203.0.113.{last}\n" for last in (1, 2, 1, 3, 4)), [f"203.0.113.{n}" for n in (1, 2, 3)]),
        ("nameserver 203.0.113.1\r\n", ["203.0.113.1"]),
        ("nameserver 203.0.113.1\n\xff\xfe", ["203.0.113.1"]),
        ("", ["127.0.0.1"]),
        ("search corp.test\n", ["127.0.0.1"]),
    ],
)  # fmt: skip
def test_servers_are_read_in_order(tmp_path: Path, text: str, addresses: list[str]) -> None:
    """Three at most, each once; what cannot be read names nobody; the local machine if nobody is named."""
    path = tmp_path / "resolv.conf"
    path.write_bytes(text.encode("latin-1"))
    assert [(server.address, server.port) for server in host_servers(path)] == [(ip_address(a), 53) for a in addresses]


def test_a_missing_file_means_the_local_machine(tmp_path: Path) -> None:
    """As resolv.conf(5) says."""
    assert [str(server) for server in host_servers(tmp_path / "none")] == ["127.0.0.1"]
