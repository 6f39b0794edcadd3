"""Names under which anybody can get a name (`com`, `co.uk`, `github.io`): a wildcard over one opens strangers' hosts.

The list is publicsuffixlist's, with both its sections: ICANN's, and the private one of hosting companies.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from publicsuffixlist import PublicSuffixList

from exeat.model.names import HostPattern, PatternKind


@dataclass(frozen=True, slots=True)
class _Suffixes:
    registry: PublicSuffixList
    below: dict[str, str]  # `amazonaws.com`: `s3.amazonaws.com`, one public suffix of those below a name


@cache
def _suffixes() -> _Suffixes:
    """Read once, and only if a policy has a wildcard: it costs 40 ms and 3 MB."""
    text = files("publicsuffixlist").joinpath("public_suffix_list.dat").read_text(encoding="utf-8")
    below: dict[str, str] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith(("//", "!")):
            continue
        suffix = line.split()[0].removeprefix("*.").encode("idna").decode("ascii")
        ancestor = suffix.partition(".")[2]
        while ancestor:
            below.setdefault(ancestor, suffix)
            ancestor = ancestor.partition(".")[2]
    return _Suffixes(PublicSuffixList(source=text), below)


def is_public_suffix(name: str) -> bool:
    """Whether anybody can get a name below this A-label name. Top-level names that the list lacks count as public."""
    return bool(_suffixes().registry.is_public(name))


def why_wide(pattern: HostPattern) -> str | None:
    """A sentence of warning if a pattern allows more names than its author may have had in mind."""
    if pattern.kind is not PatternKind.ANY_LABELS:
        return None
    suffixes = _suffixes()
    strangers = suffixes.below.get(pattern.name)
    if strangers:
        return f"`{pattern}` is wide: it covers names below `{strangers}`, where anybody can get one; name the hosts"
    if suffixes.registry.privatesuffix(pattern.name) == pattern.name:
        return (
            f"`{pattern}` is wide: it covers every name below `{pattern.name}`, at any depth; "
            f"name the hosts, or write `*.{pattern.name}` if one label is enough"
        )
    return None
