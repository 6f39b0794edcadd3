"""Addresses of ours on `lo`, in this network namespace: where the gates for guests listen.

A packet from a guest to an address that any interface of the host has is taken in by the host itself, whatever it came
in by. An address on `lo` is on no link, and nothing is sent from it unless a socket says so.
"""

import errno
import socket
import struct
from contextlib import closing

from exeat.errors import KernelError
from exeat.kernel.rtnetlink import CREATE, EXCLUSIVE, Conversation, Refusal, attribute
from exeat.model.networks import Address

# linux/rtnetlink.h, linux/if_addr.h
_NEW_ADDRESS, _DEL_ADDRESS = 20, 21
_ADDRESS, _LOCAL, _CACHE_INFO, _FLAGS = 1, 2, 6, 8
_NO_DAD, _PERMANENT, _NO_PREFIX_ROUTE = 0x02, 0x80, 0x200
# Both: never chosen as the source of what goes elsewhere. IPv6 knows no scope of that kind, but deprecated addresses.
_SCOPE_HOST = 254
_DEPRECATED = struct.pack("=IIII", 0, 0xFFFFFFFF, 0, 0)  # struct ifa_cacheinfo: preferred for 0 s, valid for ever
_HEAD = struct.Struct("=BBBBI")  # struct ifaddrmsg
_LOOPBACK_INDEX = 1  # in every network namespace
_NO_IPV6 = (errno.EOPNOTSUPP, errno.EACCES, errno.EAFNOSUPPORT, errno.EINVAL, errno.ENODEV, errno.EPERM)


def put_on_loopback(address: Address) -> bool:
    """Has this host take in what is sent there; whether it does: not where IPv6 is switched off."""
    number = _order(_NEW_ADDRESS, CREATE | EXCLUSIVE, address)
    if number in (0, errno.EEXIST):
        return True
    if address.version == 6 and number in _NO_IPV6:
        return False
    raise _failure("put", address, number)


def take_off_loopback(address: Address) -> bool:
    """The opposite; whether it was there."""
    number = _order(_DEL_ADDRESS, 0, address)
    if number == 0:
        return True
    if number == errno.EADDRNOTAVAIL or (address.version == 6 and number in _NO_IPV6):
        return False
    raise _failure("take", address, number)


def _order(kind: int, flags: int, address: Address) -> int:
    """The number of the kernel's refusal; 0: it is done."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    ours = _NO_DAD | _PERMANENT | _NO_PREFIX_ROUTE
    body = _HEAD.pack(family, address.max_prefixlen, ours & 0xFF, _SCOPE_HOST, _LOOPBACK_INDEX)
    body += attribute(_LOCAL, address.packed) + attribute(_ADDRESS, address.packed)
    body += attribute(_FLAGS, struct.pack("=I", ours))
    if address.version == 6:
        body += attribute(_CACHE_INFO, _DEPRECATED)
    with closing(Conversation()) as conversation:
        try:
            conversation.order(kind, flags, body)
        except Refusal as refusal:
            return refusal.number
    return 0


def _failure(what: str, address: Address, number: int) -> KernelError:
    where = "on" if what == "put" else "off"
    return KernelError(f"cannot {what} the address {address} {where} lo (errno {number})")
