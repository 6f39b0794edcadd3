"""One enforcer, one network and two hosts for all escape tests: `good` is what their policies allow, `evil` is not."""

import os
from collections.abc import Iterator

import pytest

pytest.register_assert_rewrite("e2e.escapes")

from bed import Bed, Host, Sniffer, Tcp, Tls, Udp, missing_capability  # noqa: E402
from e2e.guard import Guard  # noqa: E402

SERVICES = (
    Tls(443, names=("good.test", "evil.test")),
    Tcp(7, "echo", fastopen=True),
    Tcp(8443, "record", fastopen=True),
    Tcp(70, "echo", mptcp=os.path.exists("/proc/sys/net/mptcp/enabled")),
    Udp(5000),
    Udp(5001),
)
CLIENT = {
    "net.ipv4.ping_group_range": "0 65535",
    "net.ipv4.tcp_fastopen": 5,  # data in the SYN without a cookie
    "net.ipv6.conf.all.seg6_enabled": 1,
}


@pytest.fixture(scope="session")
def guard() -> Iterator[Guard]:
    """The programs, loaded once."""
    if os.geteuid() != 0:
        pytest.skip("the enforcer is loaded and attached by root only")
    guard = Guard()
    yield guard
    guard.close()


@pytest.fixture(scope="session")
def bed() -> Iterator[Bed]:
    """The network; its hosts take Fast Open data without a cookie."""
    if missing := missing_capability():
        pytest.skip(missing)
    with Bed(CLIENT, {"net.ipv4.tcp_fastopen": 0x203}) as bed:
        yield bed


@pytest.fixture(scope="session")
def _hosts(bed: Bed) -> tuple[Host, Host]:
    return bed.add("good.test", *SERVICES), bed.add("evil.test", *SERVICES)


@pytest.fixture
def good(_hosts: tuple[Host, Host]) -> Host:
    """The host that is allowed; it has counted nothing yet."""
    _hosts[0].reset()
    return _hosts[0]


@pytest.fixture
def evil(_hosts: tuple[Host, Host]) -> Host:
    """The host that is not; it has counted nothing yet."""
    _hosts[1].reset()
    return _hosts[1]


@pytest.fixture
def wire(bed: Bed) -> Iterator[Sniffer]:
    """What arrives on the hosts' end from now on."""
    with bed.sniff() as sniffer:
        yield sniffer
