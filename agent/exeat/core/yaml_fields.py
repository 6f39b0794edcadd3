"""Nodes to plain values, as YAML 1.2 types them and as strictly as can be: what could be misread is a problem.

YAML 1.1 reads a plain `no` as false, `0443` as octal and `1:30` as sixty-based, YAML 1.2 does not; nobody remembers
which reader does what. So a field of text refuses a plain scalar that any YAML takes for something else, and a number
is written in decimal digits. A reader that finds a problem notes it and returns None.
"""

import re
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from enum import StrEnum
from typing import NamedTuple, TypeVar

from exeat.core.problems import Problems, shown
from exeat.core.yaml_nodes import Field, Mapping, Node, Scalar, Sequence

_T = TypeVar("_T")
_Word = TypeVar("_Word", bound=StrEnum)
_NULL = re.compile(r"|~|null|Null|NULL")
_BOOLEAN = re.compile(r"y|n|yes|no|on|off|true|false", re.IGNORECASE)
_NUMBER = re.compile(
    r"[-+]?(\.?[0-9][0-9_]*(\.[0-9_]*)?(e[-+]?[0-9]+)?|0[xob][0-9a-f_]+|[0-9][0-9_]*(:[0-5]?[0-9])+|\.inf|\.nan)",
    re.IGNORECASE,
)
_DECIMAL = re.compile(r"0|[1-9][0-9]*")
_FRACTION = re.compile(r"(0|[1-9][0-9]{0,5})(\.[0-9]{1,6})?")
_DIGITS_MAX = 18


class Fields:
    """One mapping's fields. What is unknown is a problem, and so is what is missing, but not twice for one typo."""

    def __init__(self, mapping: Mapping, what: str, known: Iterable[str], problems: Problems) -> None:
        self.line = mapping.line
        self._what = what
        self._problems = problems
        known = tuple(known)
        self._fields = {name: field for name, field in mapping.fields.items() if name in known}
        self._meant: set[str] = set()  # by a misspelt one
        for name, field in mapping.fields.items():
            if name not in known:
                self._note_unknown(name, field.line, known)

    def _note_unknown(self, name: str, line: int, known: tuple[str, ...]) -> None:
        close = get_close_matches(name[:100], known, n=1)
        self._meant.update(close)
        hint = f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(known)}"
        self._problems.add(line, f"{shown(name)} is no field of {self._what}; {hint}")

    def __contains__(self, name: str) -> bool:
        """Whether the author gave this field, or tried to."""
        return name in self._fields or name in self._meant

    def line_of(self, name: str) -> int:
        """Where a field begins; the mapping's own line for one that is not there."""
        return self._fields[name].line if name in self._fields else self.line

    def get(self, name: str) -> Node | None:
        """A field's node if it is there; an empty one is a problem."""
        field = self._fields.get(name)
        if field is None or self._is_empty(name, field):
            return None
        return field.node

    def required(self, name: str, example: str) -> Node | None:
        """A field's node; a missing one is a problem, and `example` says what to write."""
        if name not in self:
            self._problems.add(self.line, f"{self._what} has no `{name}`: write {example}")
        return self.get(name)

    def constant(self, name: str, value: str) -> None:
        """A field that says what kind of document this is: anything else is a problem."""
        node = self.required(name, f"`{name}: {value}`")
        if node is not None and not (isinstance(node, Scalar) and node.text == value):
            what = shown(node.text) if isinstance(node, Scalar) else "no text"
            self._problems.add(node.line, f"`{name}` is {what}: write `{name}: {value}`")

    def mapping(self, node: Node | None, what: str, known: Iterable[str]) -> "Fields | None":
        """A node's own fields."""
        if node is None:
            return None
        if not isinstance(node, Mapping):
            self._problems.add(node.line, f"{what} is {_kind(node)}: write fields, one `name: value` a line")
            return None
        return Fields(node, what, known, self._problems)

    def _is_empty(self, name: str, field: Field) -> bool:
        node = field.node
        if isinstance(node, Scalar) and node.is_plain and _NULL.fullmatch(node.text):
            self._problems.add(field.line, f"`{name}` is empty: write a value, or leave the field out")
            return True
        return False


def read_text(node: Node | None, what: str, problems: Problems, longest: int = 1024) -> str | None:
    """One line of visible text."""
    if node is None:
        return None
    if not isinstance(node, Scalar):
        problems.add(node.line, f"{what} is {_kind(node)}: write text")
        return None
    text = node.text
    if node.is_plain and (kind := _plain_kind(text)):
        problems.add(node.line, f"{what} is {kind} ({shown(text)}): if you mean text, write it in quotes")
        return None
    text = text.removesuffix("\n")  # of a block scalar
    if not text:
        problems.add(node.line, f"{what} is empty: write text, or leave it out")
    elif text != text.strip():
        problems.add(node.line, f"{what} begins or ends with blanks ({shown(text)}): remove them")
    elif len(text) > longest:
        problems.add(node.line, f"{what} has {len(text)} characters: write at most {longest}")
    elif not text.isprintable():
        problems.add(node.line, f"{what} has characters that cannot be seen ({shown(text)}): write one line of text")
    else:
        return text
    return None


def read_integer(node: Node | None, what: str, problems: Problems, first: int, last: int) -> int | None:
    """A number in decimal digits."""
    form = _Form(_DECIMAL, f"a number from {first} to {last}", " in decimal digits")
    text = _read_number(
        node, what, problems, form, lambda digits: len(digits) <= _DIGITS_MAX and first <= int(digits) <= last
    )
    return None if text is None else int(text)


def read_fraction(node: Node | None, what: str, problems: Problems, first: float, last: float) -> float | None:
    """A number that may have decimals: `4` or `3.5`."""
    form = _Form(_FRACTION, f"a number from {first:g} to {last:g}, as in `{(first + last) / 2:.1f}`")
    text = _read_number(node, what, problems, form, lambda digits: first <= float(digits) <= last)
    return None if text is None else float(text)


class _Form(NamedTuple):
    """How a number is written."""

    pattern: re.Pattern[str]
    span: str
    digits: str = ""


def _read_number(
    node: Node | None, what: str, problems: Problems, form: _Form, is_within: Callable[[str], bool]
) -> str | None:
    if node is None:
        return None
    if not isinstance(node, Scalar):
        problems.add(node.line, f"{what} is {_kind(node)}: write {form.span}")
    elif not form.pattern.fullmatch(node.text):
        problems.add(node.line, f"{what} is {shown(node.text)}: write {form.span}{form.digits}")
    elif not node.is_plain:
        problems.add(node.line, f"{what} is text: write {shown(node.text)[1:-1]} without quotes")
    elif not is_within(node.text):
        problems.add(node.line, f"{what} is {shown(node.text)}: write {form.span}")
    else:
        return node.text
    return None


def read_word(node: Node | None, what: str, words: type[_Word], problems: Problems) -> _Word | None:
    """One of a few words."""
    if node is None:
        return None
    if isinstance(node, Scalar):
        for word in words:
            if word.value == node.text:
                return word
        close = get_close_matches(node.text[:100].lower(), list(words), n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"write one of {', '.join(words)}"
        problems.add(node.line, f"{what} is {shown(node.text)}; {hint}")
    else:
        problems.add(node.line, f"{what} is {_kind(node)}: write one of {', '.join(words)}")
    return None


def read_list(node: Node | None, what: str, problems: Problems, *, may_be_empty: bool = False) -> list[Node]:
    """The nodes of a list; empty for none."""
    if node is None:
        return []
    if not isinstance(node, Sequence):
        problems.add(node.line, f"{what} is {_kind(node)}: write a list, as in `[a, b]`")
        return []
    if not node.items and not may_be_empty:
        problems.add(node.line, f"{what} is an empty list: write an entry, or leave the field out")
    return node.items


def read_parsed(node: Node | None, what: str, parse: Callable[[str], _T], problems: Problems) -> _T | None:
    """What `parse` makes of a scalar's text, quoted or not; its ValueError is the problem."""
    if node is None:
        return None
    if not isinstance(node, Scalar):
        problems.add(node.line, f"{what} is {_kind(node)}: write one value")
        return None
    if node.is_plain and (kind := _plain_kind(node.text)) and not _NUMBER.fullmatch(node.text):
        problems.add(node.line, f"{what} is {kind} ({shown(node.text)}) to YAML: write what you mean, in quotes")
        return None
    try:
        return parse(node.text)
    except ValueError as error:
        problems.add(node.line, str(error))
        return None


def _plain_kind(text: str) -> str | None:
    """What some YAML reader takes an unquoted scalar for, if not for text."""
    if _NULL.fullmatch(text):
        return "an empty value"
    if _BOOLEAN.fullmatch(text):
        return "a YAML boolean"
    if _NUMBER.fullmatch(text):
        return "a number"
    return None


def _kind(node: Node) -> str:
    if isinstance(node, Sequence):
        return "a list"
    return "a mapping" if isinstance(node, Mapping) else f"{shown(node.text)}"
