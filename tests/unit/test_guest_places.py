"""What programs are told of an interface: taken from the host, unless a registration says it."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from exeat.agent.guest_places import GateEnds, place_of
from exeat.agent.guest_said import GuestSaid
from exeat.errors import Refused, StatusWord
from exeat.interface_settings import GATE_ADDRESSES
from exeat.kernel.guests import GuestPlace
from exeat.kernel.network_links import NetworkLink
from exeat.model.networks import mapped

OWN_MAC, BRIDGE_MAC, GUEST_MAC, ROUTER_MAC = (bytes((2, 0, 0x5E, 0, 0x53, number)) for number in range(1, 5))
GUEST_TEXT, ROUTER_TEXT = "02:00:5e:00:53:03", "02-00-5E-00-53-04"
GATE = GateEnds(4711, GATE_ADDRESSES)


def link(*addresses: str, name: str = "tap0", mac: bytes = OWN_MAC, is_ethernet: bool = True) -> NetworkLink:
    """An interface with these addresses of the host."""
    held = tuple(ip_interface(address) for address in addresses)
    return NetworkLink(7, name, mac, is_ethernet, is_up=True, master=0, addresses=held)


def place(of: NetworkLink, said: GuestSaid | None = None, bridge: NetworkLink | None = None) -> GuestPlace:
    """What holds behind it."""
    return place_of(of, bridge, said, GATE)


def packed(*addresses: str) -> tuple[bytes, ...]:
    """As the kernel's tables know them."""
    return tuple(mapped(ip_address(address)) for address in addresses)


def refusal(of: NetworkLink, said: GuestSaid | None = None) -> str:
    """The sentence with which words are refused."""
    with pytest.raises(Refused) as caught:
        place(of, said)
    assert caught.value.word is StatusWord.INVALID
    return str(caught.value)


# What is taken from the host


def test_a_tap_with_addresses_of_the_host_says_all_that_is_needed() -> None:
    """As a microVM's host sets it up: nobody says anything of the guest."""
    found = place(link("198.51.100.1/30", "2001:db8:1::1/64", "fe80::1/64"))
    assert found == GuestPlace(
        network=4711,
        gate=packed("169.254.101.120", "fd65:7865:6174::53"),
        guest_mac=None,
        gateway_macs=(OWN_MAC,),
        addresses=(),
        gateways=packed("198.51.100.1", "2001:db8:1::1", "fe80::1"),
        learn=(ip_network("198.51.100.0/30"), ip_network("2001:db8:1::/64")),
        allows_dhcp=True,
    )


def test_of_a_port_the_bridge_is_whom_the_guest_sees() -> None:
    """What the port itself has counts for nothing: the bridge takes in its frames."""
    bridge = link("198.51.100.1/24", "fe80::2/64", name="br0", mac=BRIDGE_MAC)
    found = place(link("203.0.113.1/24", "fe80::1/64"), bridge=bridge)
    assert found.gateway_macs == (BRIDGE_MAC,)
    assert found.gateways == packed("198.51.100.1", "fe80::2")
    assert found.learn == (ip_network("198.51.100.0/24"),)


@pytest.mark.parametrize("addresses", [(), ("169.254.1.1/32", "2001:db8:1::1/128"), ("fe80::1/64",)])
def test_where_the_host_has_no_network_there_is_nothing_to_learn_from(addresses: tuple[str, ...]) -> None:
    """A container network's veth: its guest must be told of. Link-local addresses are learnt by the programs."""
    assert place(link(*addresses)).learn == ()


def test_of_several_networks_of_a_family_one_is_learnt_from() -> None:
    """The programs hold one of each."""
    found = place(link("198.51.100.1/25", "198.51.100.129/25", "2001:db8:1::1/64", "2001:db8:2::1/64"))
    assert found.learn == (ip_network("198.51.100.0/25"), ip_network("2001:db8:1::/64"))


def test_a_guest_cannot_take_the_resolvers_address_where_it_lies_in_its_network() -> None:
    """Nobody learns what belongs to a gateway."""
    found = place(link("169.254.0.1/16"))
    assert found.gateways == packed("169.254.0.1", "169.254.101.120")
    assert place(link("169.254.0.1/30")).gateways == packed("169.254.0.1")


def test_without_ipv6_there_is_a_gate_of_one_family() -> None:
    """And the other is nowhere."""
    found = place_of(link("198.51.100.1/30"), None, None, GateEnds(1, GATE_ADDRESSES[:1]))
    assert found.gate == packed("169.254.101.120")


# What is said


def test_words_stand_before_what_would_be_learnt() -> None:
    """In a family of which no address was said, the guest may still take one."""
    said = GuestSaid(mac=GUEST_TEXT, addresses=("198.51.100.2", "198.51.100.2"), allows_dhcp=False)
    found = place(link("198.51.100.1/30", "2001:db8:1::1/64"), said)
    assert (found.guest_mac, found.addresses, found.allows_dhcp) == (GUEST_MAC, packed("198.51.100.2"), False)
    assert found.learn == (ip_network("2001:db8:1::/64"),)


def test_a_router_beyond_the_host_is_said() -> None:
    """By its MAC address, beside the host's own, and by its addresses."""
    said = GuestSaid(gateways=("169.254.1.1", "fe80::9"), gateway_mac=ROUTER_TEXT)
    found = place(link("fe80::1/64"), said)
    assert found.gateway_macs == (OWN_MAC, ROUTER_MAC)
    assert found.gateways == packed("fe80::1", "169.254.1.1", "fe80::9")


def test_what_the_host_has_already_is_no_second_gateway() -> None:
    """Said twice is said once."""
    said = GuestSaid(gateways=("198.51.100.1",), gateway_mac="02:00:5e:00:53:01")
    found = place(link("198.51.100.1/30"), said)
    assert (found.gateway_macs, found.gateways) == ((OWN_MAC,), packed("198.51.100.1"))


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (GuestSaid(mac="02:00:5e:00:53"), "`02:00:5e:00:53` is no MAC address: write six bytes, as in "),
        (GuestSaid(mac="02:00-5e:00:53:03"), "`02:00-5e:00:53:03` is no MAC address"),
        (GuestSaid(mac="01:00:5e:00:00:01"), "`01:00:5e:00:00:01` is a group's MAC address"),
        (GuestSaid(gateway_mac="ff:ff:ff:ff:ff:ff"), "`ff:ff:ff:ff:ff:ff` is a group's MAC address"),
        (GuestSaid(mac="00:00:00:00:00:00"), "`00:00:00:00:00:00` is nobody's MAC address"),
        (GuestSaid(mac="02:00:5e:00:53:01"), "02:00:5e:00:53:01 is the gateway's MAC address"),
        (GuestSaid(mac=ROUTER_TEXT, gateway_mac=ROUTER_TEXT), "02-00-5E-00-53-04 is the gateway's MAC address"),
        (GuestSaid(addresses=("guest.test",)), "`guest.test` is no address: write one like `172.16.0.2`"),
        (GuestSaid(addresses=("198.51.100.2/30",)), "`198.51.100.2/30` is no address: write `198.51.100.2`, without a"),
        (GuestSaid(addresses=("224.0.0.1",)), "`224.0.0.1` is a multicast address"),
        (GuestSaid(addresses=("ff02::1",)), "`ff02::1` is a multicast address"),
        (GuestSaid(addresses=("127.0.0.1",)), "`127.0.0.1` is a loopback address"),
        (GuestSaid(addresses=("::",)), "`::` is nobody's address"),
        (GuestSaid(addresses=("255.255.255.255",)), "`255.255.255.255` is reserved, or means everybody"),
        (GuestSaid(addresses=("fe80::2%tap0",)), "`fe80::2%tap0` names an interface"),
        (GuestSaid(addresses=("::ffff:198.51.100.2",)), "`::ffff:198.51.100.2` is IPv4 in IPv6's clothes"),
        (GuestSaid(addresses=("169.254.101.120",)), "169.254.101.120 is where exeat's resolver listens"),
        (GuestSaid(addresses=("198.51.100.1",)), "198.51.100.1 is the host's own, or a gateway's"),
        (GuestSaid(addresses=("198.51.100.3",), gateways=("198.51.100.3",)), "198.51.100.3 is the host's own, or a"),
        (GuestSaid(gateways=("fd65:7865:6174::53",)), "fd65:7865:6174::53 is where exeat's resolver listens, and no"),
    ],
)
def test_words_that_cannot_be_meant_are_refused(said: GuestSaid, sentence: str) -> None:
    """With what is wrong, and what to write instead."""
    told = refusal(link("198.51.100.1/30"), said)
    assert told.startswith(sentence)
    assert ": " in told


def test_only_ethernet_is_judged() -> None:
    """A tun has no frames, and what is behind it has no MAC address to be known by."""
    assert refusal(link(is_ethernet=False, name="tun0", mac=b"")).startswith("tun0 carries no Ethernet frames: ")
    assert refusal(replace(link(), mac=b"")).startswith("tap0 carries no Ethernet frames: ")
