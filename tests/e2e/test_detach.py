"""`exeat detach` leaves no address of the resolver for guests behind."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from bed.namespace import Namespace, missing_capability
from exeat.cli.detach import clear_loopback
from exeat.interface_settings import GATE_ADDRESSES
from exeat.kernel.local_addresses import put_on_loopback

OWN = ip_address("198.51.100.53")
OTHER = ip_address("198.51.100.54")
SETTINGS = f"""\
apiVersion: exeat.dev/v1
kind: AgentSettings
spec: {{interfaces: {{gate: ["{OWN}"]}}}}
"""


@pytest.fixture
def host() -> Iterator[Namespace]:
    """Where an agent was, whose settings have changed once."""
    if missing := missing_capability():
        pytest.skip(missing)
    space = Namespace()
    space.command("ip", "link", "set", "lo", "up")
    space.call(lambda: [put_on_loopback(address) for address in (OWN, OTHER, *GATE_ADDRESSES)])
    yield space
    space.close()


def left(host: Namespace) -> set[str]:
    """The addresses on lo."""
    words = host.command("ip", "-oneline", "address", "show", "dev", "lo").split()
    found = {word.partition("/")[0] for at, word in enumerate(words) if at and words[at - 1] in ("inet", "inet6")}
    return found - {"127.0.0.1", "::1"}


def test_the_addresses_of_settings_and_defaults_go_and_no_others(host: Namespace, tmp_path: Path) -> None:
    """A second time nothing is there any more, and nothing is told."""
    settings = tmp_path / "exeat.yaml"
    settings.write_text(SETTINGS)
    assert left(host) == {str(one) for one in (OWN, OTHER, *GATE_ADDRESSES)}
    assert host.call(lambda: clear_loopback(settings)) == [OWN, *GATE_ADDRESSES]
    assert left(host) == {str(OTHER)}
    assert host.call(lambda: clear_loopback(settings)) == []


@pytest.mark.parametrize("text", [None, "nonsense: ["])
def test_without_settings_that_can_be_read_the_defaults_go(
    host: Namespace, tmp_path: Path, text: str | None, capfd: pytest.CaptureFixture[str]
) -> None:
    """Where there is a file, it is said that others may stay."""
    settings = tmp_path / "exeat.yaml"
    if text is not None:
        settings.write_text(text)
    assert host.call(lambda: clear_loopback(settings)) == list(GATE_ADDRESSES)
    assert left(host) == {str(OWN), str(OTHER)}
    assert ("stay on lo" in capfd.readouterr().err) == (text is not None)
