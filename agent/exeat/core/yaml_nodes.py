"""YAML text to a tree of nodes with lines: one document, no surprises, bounded in size and depth.

Built from the parser's events and not by PyYAML's composer, which recurses in C, keeps the last of duplicate keys and
lets an alias bomb grow. A plain scalar stays text here: what type it is, the reader of each field says (yaml_fields).
"""

import re
from dataclasses import dataclass

import yaml

from exeat.core.problems import Problems, shown

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # PyYAML without libyaml: the same events, ten times slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

TEXT_MAX = 1 << 20  # bytes; 20,000 hosts of 40 characters each, one a line, fit
_DEPTH_MAX = 20  # a policy needs 5
_UNFOLDED_MAX = 100_000  # nodes that aliases repeat; all others are bounded by the text
# What YAML forbids, and what makes a line look different from what it says: bidirectional controls ("Trojan Source",
# CVE-2021-42574), a byte order mark inside the text, and line breaks that not every editor counts.
_FORBIDDEN = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]|\r(?!\n)"
)


@dataclass(frozen=True, slots=True)
class Scalar:
    """A single value, as text."""

    line: int
    text: str
    is_plain: bool  # written without quotes


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    line: int
    items: "list[Node]"


@dataclass(frozen=True, slots=True)
class Field:
    """A mapping's key and value; the key's line is where the key, or an alias for it, is written."""

    key: Scalar
    node: "Node"

    @property
    def line(self) -> int:
        """Where the field begins."""
        return self.key.line


@dataclass(frozen=True, slots=True)
class Mapping:
    """Fields by name, in the order of the text."""

    line: int
    fields: dict[str, Field]


Node = Scalar | Sequence | Mapping


def compose(text: str, problems: Problems) -> Node:
    """Read the one document of a text. Raises PolicyError where reading cannot go on; notes all else."""
    text = text.removeprefix("\ufeff")
    _refuse_unreadable(text, problems)
    composer = _Composer(problems)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            if not composer.take(event):
                break
    except yaml.MarkedYAMLError as error:
        raise problems.failure(*_syntax_error(error, text)) from error
    except yaml.YAMLError as error:
        raise problems.failure(1, f"this is no YAML ({shown(str(error))}): check the file") from error
    if composer.root is None:
        raise problems.failure(1, "there is no policy in here: begin with `apiVersion: exeat.dev/v1`")
    return composer.root


class _Composer:
    """Takes events, builds nodes."""

    def __init__(self, problems: Problems) -> None:
        self.root: Node | None = None
        self._problems = problems
        self._open: list[tuple[Sequence | Mapping, str | None, int]] = []  # with its anchor, and the nodes before it
        self._keys: list[Scalar | None] = []  # per open node: the key that waits for its value
        self._anchored: dict[str, tuple[Node, int]] = {}  # and how many nodes it unfolds to
        self._nodes = 0
        self._unfolded = 0

    def take(self, event: yaml.Event) -> bool:
        """Take one event; False if nothing after it is to be read."""
        line = event.start_mark.line + 1 if event.start_mark else 1
        match event:
            case yaml.DocumentStartEvent():
                if self.root is not None:
                    self._problems.add(line, "a second document begins here: write one policy per file")
                    return False
            case yaml.AliasEvent():
                self._add(self._aliased(event.anchor, line), line)
            case yaml.ScalarEvent():
                self._refuse_tag(event.tag, line)
                scalar = Scalar(line, event.value, event.style in (None, ""))
                self._nodes += 1
                self._anchor(event.anchor, scalar, 1)
                self._add(scalar, line)
            case yaml.SequenceStartEvent():
                self._begin(event, Sequence(line, []))
            case yaml.MappingStartEvent():
                self._begin(event, Mapping(line, {}))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                node, anchor, nodes_before = self._open.pop()
                self._keys.pop()
                self._anchor(anchor, node, self._nodes - nodes_before)
                self._add(node, node.line)
        return True

    def _begin(self, event: yaml.SequenceStartEvent | yaml.MappingStartEvent, node: Sequence | Mapping) -> None:
        if len(self._open) == _DEPTH_MAX:
            raise self._problems.failure(node.line, f"this nests deeper than {_DEPTH_MAX} levels: no policy needs that")
        self._refuse_tag(event.tag, node.line)
        if event.anchor is not None:
            self._anchored.pop(event.anchor, None)  # an alias inside is no reference to an earlier anchor of that name
        self._open.append((node, event.anchor, self._nodes))
        self._keys.append(None)
        self._nodes += 1

    def _add(self, node: Node, line: int) -> None:
        """Put a finished node where it belongs; `line` is where it was written, if only as an alias."""
        if not self._open:
            self.root = node
            return
        parent = self._open[-1][0]
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif (key := self._keys[-1]) is None:
            self._keys[-1] = self._key(node, line)
        else:
            self._keys[-1] = None
            if key.text in parent.fields:
                first = parent.fields[key.text].line
                self._problems.add(key.line, f"{shown(key.text)} was given in line {first} already: write it once")
            parent.fields.setdefault(key.text, Field(key, node))

    def _key(self, node: Node, line: int) -> Scalar:
        if not isinstance(node, Scalar):
            raise self._problems.failure(line, "a list or mapping stands where a field's name belongs: write a name")
        if node.is_plain and node.text == "<<":
            raise self._problems.failure(line, "`<<` would merge another mapping: write its fields here")
        return Scalar(line, node.text, node.is_plain)

    def _anchor(self, anchor: str | None, node: Node, nodes: int) -> None:
        if anchor is not None:
            self._anchored[anchor] = node, nodes

    def _aliased(self, anchor: str | None, line: int) -> Node:
        if anchor is None or anchor not in self._anchored:
            raise self._problems.failure(
                line,
                f"{shown(f'*{anchor}')} is a YAML alias, and no finished anchor before it has that name: "
                'quote what begins with a star: "*.example.com"',
            )
        node, nodes = self._anchored[anchor]
        self._nodes += nodes
        self._unfolded += nodes
        if self._unfolded > _UNFOLDED_MAX:
            raise self._problems.failure(
                line, f"aliases unfold to more than {_UNFOLDED_MAX:,} values up to here: write rules that share less"
            )
        return node

    def _refuse_tag(self, tag: str | None, line: int) -> None:
        if tag is not None:
            self._problems.add(line, f"{shown(tag)} is a YAML tag, which policies do without: remove it")


def _refuse_unreadable(text: str, problems: Problems) -> None:
    size = len(text.encode(errors="surrogatepass"))
    if size > TEXT_MAX:
        raise problems.failure(1, f"the policy has {size:,} bytes, of which at most {TEXT_MAX:,} are read: split it")
    if bad := _FORBIDDEN.search(text):
        line = text.count("\n", 0, bad.start()) + 1
        raise problems.failure(line, f"U+{ord(bad[0]):04X} cannot be seen, or changes how the line looks: remove it")


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    what = f"this is no YAML ({error.problem or error.context})"
    if "alias" in f"{error.context} {error.problem}":
        return line, f'{what}: quote what begins with a star: "*.example.com"'
    lines = text.splitlines()
    if line <= len(lines) and "\t" in lines[line - 1]:
        return line, f"{what}: write blanks in place of tabs"
    return line, f"{what}: check indentation, quotes and brackets"
