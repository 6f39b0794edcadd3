"""Text to host pattern: one way to write each name, and a sentence for whatever is no host name."""

import re
from functools import lru_cache
from ipaddress import ip_network

import idna

from exeat.core.problems import shown
from exeat.core.public_suffixes import is_public_suffix
from exeat.model.names import NAME_MAX, HostPattern, PatternKind

_LABEL_MAX = 63  # RFC 1035, 2.3.4
_TEXT_MAX = 1024  # no name is so long even in Unicode; IDNA need not look at more
_SERVICE = re.compile(r"_[a-z0-9-]{1,15}\._(tcp|udp|tls)\.(?P<host>.+)")  # RFC 6335 5.1 bounds a service's name
_KINDS = (PatternKind.ANY_LABELS, PatternKind.ONE_LABEL, PatternKind.EXACT)  # the last begins every text
_LABEL = re.compile(r"[a-z0-9-]+")
# What URL readers take for an IPv4 address: `127.1`, `0x7f000001` (WHATWG URL, "ends in a number").
_LIKE_ADDRESS = re.compile(r"[\[\]0-9A-Fa-f:./%]*|.*:.*", re.DOTALL)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


@lru_cache(maxsize=16_384)  # a policy that is read again because of one host has most of them as before
def parse_host_pattern(text: str) -> HostPattern:
    """Read `api.example.com`, `*.example.com` or `**.example.com`. Raises ValueError with a sentence."""
    _refuse_what_is_no_name(text)
    kind = next(kind for kind in _KINDS if text.startswith(kind.value))
    rest = text.removeprefix(kind.value)
    if "*" in rest:
        raise ValueError(
            f"{shown(text)} has a wildcard where none may stand: write it first, as a label of its own: "
            "`*.example.com` for one label more, `**.example.com` for one or more"
        )
    pattern = HostPattern(kind, _canonical(rest, text))
    if kind is not PatternKind.EXACT and is_public_suffix(pattern.name):
        raise ValueError(
            f"{shown(text)} covers everybody's hosts, because anybody can get a name below `{pattern.name}`: "
            f"write the domain that you mean, as in `{kind.value}example.{pattern.name}`"
        )
    return pattern


def _refuse_what_is_no_name(text: str) -> None:
    if not text:
        raise ValueError("a host name is empty: write a name such as `api.example.com`")
    if len(text) > _TEXT_MAX:
        raise ValueError(f"{shown(text)} is {len(text)} characters long: write one host name")
    if any(c.isspace() for c in text):
        raise ValueError(f"{shown(text)} has blanks in it: write one host name without any")
    if text in ("*", "**"):
        raise ValueError(
            f"{shown(text)} would allow every name: name the hosts, "
            "or write `protocol: tcp` and `cidrs` if any name will do"
        )
    host = _host_of_url(text) if any(c in text for c in "/:@?#\\") else text
    if _is_address(text) or _is_address(host):
        raise ValueError(f"{shown(text)} is an address and no name: write it under `cidrs`")
    if host != text:
        plain = host if _is_plain_name(host) else "api.example.com"
        raise ValueError(
            f"{shown(text)} is more than a name: write only the host: `{plain}`; a port goes under `ports`"
        )


def _host_of_url(text: str) -> str:
    """`a.com` of `https://me@a.com:443/path?query`, and of every shorter form."""
    authority = re.split(r"[/?#\\]", text.rpartition("://")[2])[0]
    return re.sub(r":[^:\]]*$", "", authority.rpartition("@")[2])


def _is_address(text: str) -> bool:
    if not _LIKE_ADDRESS.fullmatch(text):  # ip_network() takes longer than all the rest
        return False
    try:
        ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return False
    return True


def _is_plain_name(text: str) -> bool:
    return all(_LABEL.fullmatch(label) for label in text.removeprefix("**.").removeprefix("*.").lower().split("."))


def _canonical(name: str, text: str) -> str:
    """A name's lower-case A-labels; `text` is what its author wrote."""
    labels = _mapped(name, text).removesuffix(".").split(".")
    labels = [_a_label(label, text) for label in labels]
    if _NUMBER.fullmatch(labels[-1]):
        raise ValueError(f"{shown(text)} ends in a number, as addresses do: write a name, or an address under `cidrs`")
    canonical = ".".join(labels)
    if len(canonical) > NAME_MAX:
        raise ValueError(
            f"{shown(text)} is {len(canonical)} characters long in A-labels, of which at most {NAME_MAX} can be "
            "enforced: write a wildcard over its parent"
        )
    return canonical


def _mapped(name: str, text: str) -> str:
    """Lower-case; beyond ASCII as UTS 46 says, which also knows other full stops than `.`."""
    if name.isascii():
        return name.lower()
    try:
        return idna.uts46_remap(name, std3_rules=True, transitional=False)
    except idna.IDNAError as error:
        raise ValueError(_no_idna_name(text, error)) from error


def _a_label(label: str, text: str) -> str:
    if not label:
        raise ValueError(f"{shown(text)} has an empty label: write one dot between labels and none in front")
    # Other ASCII labels are taken as they are: IDNA would refuse `r3---sn-4g5e6nsk`, which is in use.
    if not label.isascii() or label.startswith("xn--"):
        label = _idna_label(label, text)
    if len(label) > _LABEL_MAX:
        raise ValueError(f"{shown(text)} has a label of {len(label)} characters: DNS allows {_LABEL_MAX}")
    if "_" in label:
        raise ValueError(f"{shown(text)} has an underscore, which no host name in a certificate has: check the name")
    if not _LABEL.fullmatch(label):
        raise ValueError(f"{shown(text)} has characters that no host name has: write letters, digits and hyphens")
    if label[0] == "-" or label[-1] == "-":
        raise ValueError(f"{shown(text)} has a label that begins or ends with a hyphen: check the name")
    return label


def _idna_label(label: str, text: str) -> str:
    try:
        a_label = idna.alabel(idna.ulabel(label)).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise ValueError(_no_idna_name(text, error)) from error
    if label.isascii() and a_label != label:
        raise ValueError(f"{shown(text)} has a label that no registry would issue: write `{a_label}`")
    return a_label


def _no_idna_name(text: str, error: Exception) -> str:
    why = str(error).replace("\n", " ")
    why = "".join(c if c.isprintable() else "?" for c in why)
    return f"{shown(text)} is no international host name ({why}): write it as your browser shows it, or in A-labels"


def host_of_service(name: str) -> str | None:
    """`example.com` of `_ldap._tcp.example.com`: who may resolve a host may resolve its services (RFC 2782)."""
    service = _SERVICE.fullmatch(name)
    return service["host"] if service else None
