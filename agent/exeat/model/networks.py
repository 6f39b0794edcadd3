"""Networks, and the address ranges that a wider network never covers by accident."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address

# A network covers one of these ranges only if it lies inside that range itself: `0.0.0.0/0` is the public internet.
# Sources: the IANA special-purpose registries (RFC 6890 and its updates); the metadata and credential endpoints that
# AWS, Azure, Google Cloud, Oracle and Alibaba document, each as a range of its own so that not even its
# surrounding link-local or private network opens it.
SPECIAL_NETWORKS: tuple[tuple[str, Network], ...] = tuple(
    (kind, ip_network(text))
    for kind, text in (
        ("this network", "0.0.0.0/8"),
        ("private", "10.0.0.0/8"),
        ("shared (carrier-grade NAT)", "100.64.0.0/10"),
        ("metadata (Alibaba)", "100.100.100.200/32"),
        ("loopback", "127.0.0.0/8"),
        ("link-local", "169.254.0.0/16"),
        ("metadata", "169.254.169.254/32"),
        ("metadata (ECS tasks)", "169.254.170.2/32"),
        ("metadata (EKS pod identity)", "169.254.170.23/32"),
        ("private", "172.16.0.0/12"),
        ("protocol assignments", "192.0.0.0/24"),
        ("metadata (Oracle)", "192.0.0.192/32"),
        ("metadata (Azure)", "168.63.129.16/32"),
        ("private", "192.168.0.0/16"),
        ("benchmarking", "198.18.0.0/15"),
        ("multicast", "224.0.0.0/4"),
        ("reserved and broadcast", "240.0.0.0/4"),
        ("IPv4-compatible", "::/96"),
        ("unspecified", "::/128"),
        ("loopback", "::1/128"),
        ("IPv4-mapped", "::ffff:0:0/96"),
        ("NAT64", "64:ff9b::/96"),
        ("NAT64", "64:ff9b:1::/48"),
        ("discard", "100::/64"),
        ("Teredo", "2001::/32"),
        ("6to4", "2002::/16"),
        ("private (ULA)", "fc00::/7"),
        ("metadata (AWS)", "fd00:ec2::254/128"),
        ("metadata (EKS pod identity)", "fd00:ec2::23/128"),
        ("metadata (Google Cloud)", "fd20:ce::254/128"),
        ("link-local", "fe80::/10"),
        ("site-local", "fec0::/10"),
        ("multicast", "ff00::/8"),
    )
)

MAPPED_PREFIX = bytes(10) + b"\xff\xff"


def mapped_bytes(packed: bytes) -> bytes:
    """The same of an address as packets and DNS records hold it, 4 or 16 bytes."""
    return packed if len(packed) == 16 else MAPPED_PREFIX + packed


def mapped(address: Address) -> bytes:
    """The 16 bytes under which the kernel tables know an address: IPv4 as ::ffff:a.b.c.d."""
    return mapped_bytes(address.packed)


def mapped_prefix(network: Network) -> tuple[bytes, int]:
    """A network's first address as 16 bytes, and its length among 128 bits."""
    return mapped(network.network_address), network.prefixlen + (0 if network.version == 6 else 96)
