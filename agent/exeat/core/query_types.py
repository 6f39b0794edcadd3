"""Text to the number of a DNS question's type: what `dns.types` may list, and why it may not list the others.

Source of names and numbers: IANA, "Domain Name System (DNS) Parameters", Resource Record (RR) TYPEs; a type without a
name here is written as RFC 3597 says: `TYPE123`.
"""

import re
from difflib import get_close_matches

from exeat.core.problems import shown

QUERY_TYPES = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "NULL": 10, "PTR": 12, "HINFO": 13, "MINFO": 14, "MX": 15, "TXT": 16,
    "RP": 17, "AFSDB": 18, "SIG": 24, "KEY": 25, "AAAA": 28, "LOC": 29, "SRV": 33, "NAPTR": 35, "KX": 36, "CERT": 37,
    "DNAME": 39, "OPT": 41, "APL": 42, "DS": 43, "SSHFP": 44, "IPSECKEY": 45, "RRSIG": 46, "NSEC": 47, "DNSKEY": 48,
    "DHCID": 49, "NSEC3": 50, "NSEC3PARAM": 51, "TLSA": 52, "SMIMEA": 53, "HIP": 55, "CDS": 59, "CDNSKEY": 60,
    "OPENPGPKEY": 61, "CSYNC": 62, "ZONEMD": 63, "SVCB": 64, "HTTPS": 65, "SPF": 99, "NID": 104, "L32": 105,
    "L64": 106, "LP": 107, "EUI48": 108, "EUI64": 109, "TKEY": 249, "TSIG": 250, "IXFR": 251, "AXFR": 252,
    "MAILB": 253, "MAILA": 254, "ANY": 255, "URI": 256, "CAA": 257, "AVC": 258, "AMTRELAY": 260,
}  # fmt: skip
_NAMES = {number: name for name, number in QUERY_TYPES.items()}
_ANSWERED = frozenset(QUERY_TYPES[name] for name in ("A", "AAAA", "CNAME", "SRV", "PTR"))
_WITH_ECH = frozenset(QUERY_TYPES[name] for name in ("HTTPS", "SVCB"))
_ANY = QUERY_TYPES["ANY"]
_META = range(128, _ANY)  # RFC 6895, 3.1: no records; what they do ask for, transfers and keys, is no resolver's matter
_LAST = 65_534  # RFC 6895, 3.1: 65,535 is reserved
_BY_NUMBER = re.compile(r"TYPE(0|[1-9][0-9]{0,4})")


def parse_query_type(text: str) -> int:
    """Read a type that a policy may allow beside those always answered. Raises ValueError with a sentence."""
    by_number = _BY_NUMBER.fullmatch(text)
    number = int(by_number[1]) if by_number else QUERY_TYPES.get(text)
    if number is None:
        raise ValueError(f"{shown(text)} is no type of question: {_what_instead(text)}")
    what = shown(text) + (f", which is {_NAMES[number]}," if by_number and number in _NAMES else "")
    if number in _ANSWERED:
        raise ValueError(f"{what} is answered for every allowed name: leave it out")
    if number in _WITH_ECH:
        raise ValueError(
            f"{what} is never answered, because it carries the keys that hide a ClientHello's name: leave it out; "
            "programs ask for A and AAAA instead"
        )
    if number in _META or number == QUERY_TYPES["OPT"]:
        raise ValueError(f"{what} is no type of record that a resolver could be asked for: leave it out")
    if not 1 <= number <= _LAST:
        raise ValueError(f"{shown(text)} is no type of question: write one from TYPE1 to TYPE{_LAST}")
    return number


def query_type_word(number: int) -> str:
    """A, AAAA, TXT ... or TYPE123."""
    return _NAMES.get(number, f"TYPE{number}")


def _what_instead(text: str) -> str:
    number = int(text) if re.fullmatch(r"[1-9][0-9]{0,4}", text) else None
    if number is not None:
        return f"write `{_NAMES.get(number, f'TYPE{number}')}`"
    if text == "*":
        return "write `ANY`"
    close = get_close_matches(text[:20].upper(), QUERY_TYPES, n=1)
    return f"did you mean `{close[0]}`?" if close else "write a name such as `TXT`, or its number as in `TYPE123`"
