"""The host's own resolvers, as its C library would read them from resolv.conf(5)."""

from ipaddress import ip_address
from pathlib import Path

from exeat.model.policy import Server

_SERVERS_MAX = 3  # MAXNS of <resolv.h>: programs on this host ask no others
_NONE_NAMED = (Server(ip_address("127.0.0.1")),)  # resolv.conf(5): "the default is to use the ... local machine"


def host_servers(path: Path | str = "/etc/resolv.conf") -> tuple[Server, ...]:
    """The servers that resolv.conf names, in its order; the local machine where it is missing or names none."""
    try:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return _NONE_NAMED
    named: list[Server] = []
    for line in text.splitlines():
        # The keyword stands in the first column, so a line that begins with a blank, `#` or `;` names nothing.
        keyword, *values = line.split() if line[:1].strip() else [""]
        if keyword == "nameserver" and values and (server := _server(values[0])):
            named.append(server)
    return tuple(dict.fromkeys(named))[:_SERVERS_MAX] or _NONE_NAMED


def _server(text: str) -> Server | None:
    """None for what is no address: glibc passes over such a line, too."""
    try:
        return Server(ip_address(text))
    except ValueError:
        return None
