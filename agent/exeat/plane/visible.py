"""Names of others as a page may show them."""

from markupsafe import Markup

_OURS = "\N{NARROW NO-BREAK SPACE}"  # between the digits of large numbers


def visible(text: str) -> str:
    """What is not printable (control characters, what turns the direction of writing) is escaped, as in
    exeat.cli.tables."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c == _OURS else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def shown(value: object) -> object:
    """For Jinja's `finalize`: all that a template says of what it was given."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value
