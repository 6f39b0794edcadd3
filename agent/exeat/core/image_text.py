"""Names of container images, and the patterns in policies that cover them. Pure.

A name is made full as Docker does it: `python` is `docker.io/library/python:latest`. A pattern is made full in the
same way, but for the tag: without one it covers every tag. `*` covers within one part of the name, so that
`ghcr.io/acme/*` is an image of acme's and not one of `ghcr.io/acme/team/`. Who may start containers may call an image
what he likes; a digest is what cannot be made up.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from exeat.core.globs import is_match
from exeat.core.problems import shown

_HOME = "docker.io"
_HOME_ALIASES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_LIBRARY = "library"
_LATEST = "latest"
_LENGTH_MAX = 512
_REMEMBERED = 8192
_PART = re.compile(r"[A-Za-z0-9._*?\[\]!-]+")
_DOMAIN = re.compile(r"[A-Za-z0-9._*?\[\]!-]+(:[0-9]{1,5})?")
_TAG = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,128}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Image:
    parts: tuple[str, ...]  # the registry first
    tag: str
    digest: str


def is_image_match(pattern: str, names: Iterable[str]) -> bool:
    """Whether a pattern covers one of an image's names."""
    wanted = _parsed(pattern)
    return any(_covers(wanted, _parsed(name)) for name in names)


def why_no_image(pattern: str) -> str | None:
    """What is wrong with a pattern, if anything is."""
    example = "write one as in `ghcr.io/acme/*`, `python:3.12` or `ghcr.io/acme/agent@sha256:...`"
    if len(pattern) > _LENGTH_MAX:
        return f"{shown(pattern)} is too long for an image: {example}"
    image = _parsed(pattern)
    if "**" in pattern:
        return f"{shown(pattern)}: `**` means nothing here, `*` covers within one part of the name: {example}"
    if "@" in pattern and not _DIGEST.fullmatch(image.digest):
        return f"{shown(pattern)}: a digest is `sha256:` and 64 small hexadecimal digits, in full"
    is_well_formed = (
        _DOMAIN.fullmatch(image.parts[0])
        and all(_PART.fullmatch(part) for part in image.parts[1:])
        and (not image.tag or _TAG.fullmatch(image.tag))
        and not _front(pattern).endswith(":")
    )
    return None if is_well_formed else f"{shown(pattern)} is no image: {example}"


def _covers(pattern: _Image, image: _Image) -> bool:
    if pattern.digest:
        is_this_one = pattern.digest == image.digest
    else:
        is_this_one = not pattern.tag or is_match(pattern.tag, image.tag or ("" if image.digest else _LATEST))
    return is_this_one and len(pattern.parts) == len(image.parts) and all(map(is_match, pattern.parts, image.parts))


@lru_cache(maxsize=_REMEMBERED)
def _parsed(text: str) -> _Image:
    front, tag = _front(text), ""
    digest = text[len(front) + 1 :]
    last = front.rpartition("/")[2]
    if ":" in last:
        front, _, tag = front.rpartition(":")
    parts = front.split("/")
    if len(parts) == 1 or not _is_domain(parts[0]):
        parts = [_HOME, *([_LIBRARY] if len(parts) == 1 else []), *parts]
    elif parts[0] in _HOME_ALIASES:
        parts = [_HOME, *([_LIBRARY] if len(parts) == 2 else []), *parts[1:]]
    return _Image(tuple(parts), tag, digest)


def _front(text: str) -> str:
    return text.partition("@")[0]


def _is_domain(part: str) -> bool:
    return "." in part or ":" in part or part == "localhost"
