"""Templates: everything that a page says goes through here, so that no name can be more than a name.

Jinja escapes all of it for HTML; before that, what is not printable (control characters, what turns the direction of
writing) is made visible.
"""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from exeat import __version__
from exeat.plane.visible import shown, visible
from exeat.plane.web import command_words, wording
from exeat.plane.web.assets import asset_path

# Ours, and the report's.
_TEMPLATES = (Path(__file__).parent / "templates", Path(__file__).parents[1] / "report" / "templates")

_JOINT = re.compile(r"([/_.-])")
_JOINTS = frozenset("/_.-")


def link(path: str, **query: object) -> str:
    """A path of ours, with what is not empty as its query."""
    given = {name: value for name, value in query.items() if value not in (None, "", 0)}
    return path + ("?" + urlencode(given, errors="replace") if given else "")


def breakable(text: str) -> Markup:
    """A name that may be broken where it has a joint, and not only where the line ends."""
    return Markup("").join(
        Markup("{}{}").format(part, Markup("<wbr>") if part in _JOINTS else "") for part in _JOINT.split(visible(text))
    )


def segment(text: str) -> str:
    """A name as a part of a path."""
    return quote(text, safe="", errors="replace")


def render(template: str, values: Mapping[str, Any]) -> str:
    """The page, or a part of one."""
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(asset=asset_path, link=link, segment=segment, version=__version__)
    for name in ("clock", "count", "distance", "machine_moment", "moment", "several", "short", "span"):
        environment.filters[name] = getattr(wording, name)
    environment.filters["breakable"] = breakable
    for name in ("answer", "why", "wish"):
        environment.filters[name] = getattr(command_words, name)
    environment.filters["command_kind"] = lambda asked: command_words.KINDS[asked.state]
    return environment
