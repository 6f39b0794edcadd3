"""What an API server takes a rule to cost at most, each time that it is evaluated. It refuses what costs too much.

The estimate is cel-go's (checker/cost.go) with Kubernetes' functions (apiserver, pkg/cel/library/cost.go), as 1.31 has
them: later versions find some things cheaper. What it knows no size for may be of any size, and is beyond all bounds. A
function that is not told here is an error.
"""

from __future__ import annotations

import math
from typing import Any

from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

from deploy.crd_types import TEXT_MAX, UNKNOWN, Seen, compiled

# A character of a schema's maxLength has up to so many bytes.
WIDEST = 4
# cel-go, common/cost.go.
_STEP, _LIST, _A_CHARACTER, _A_CHARACTER_OF_A_PATTERN = 1, 10, 0.1, 0.25
# Bytes of the longest address.
_ADDRESS = 16
_ONE_STEP = {"!_", "@not_strictly_false", "size", "masked"}


def estimate(rule: str, of: Seen, width: int = WIDEST) -> int:
    """In CEL's units, about 50 ns each. `width`: bytes of a character."""
    wrapped = _fields(compiled(rule, of).serialize())
    checked = _fields(wrapped[2][0])
    return _Estimate(checked.get(2, []), of, width).cost(_fields(checked[4][0]))


# A message of cel.expr (checked.proto, syntax.proto): its fields by their numbers.
_Message = dict[int, list[Any]]


def _fields(data: bytes) -> _Message:
    found: _Message = {}
    for each in UnknownFieldSet(Empty.FromString(data)):
        found.setdefault(each.field_number, []).append(each.data)
    return found


def _text(message: _Message, number: int) -> str:
    words: bytes = message.get(number, [b""])[0]
    return words.decode()


def _part(message: _Message, number: int) -> _Message:
    return _fields(message[number][0])


class _Estimate:
    def __init__(self, references: list[bytes], root: Seen, width: int) -> None:
        entries = [_fields(entry) for entry in references]
        of_call = {entry[1][0]: _fields(entry[2][0]).get(3, []) for entry in entries}
        self._overloads: dict[int, list[str]] = {key: [each.decode() for each in ids] for key, ids in of_call.items()}
        self._width = width
        self._names: dict[str, Seen | None] = {"self": root}
        # Of texts that calls make, by the call's number.
        self._sizes: dict[int, int] = {}

    def cost(self, expression: _Message) -> int:
        """Of an Expr: exactly one of its kinds is there."""
        if 3 in expression:  # a constant
            return 0
        if 4 in expression:  # a name
            return _STEP
        if 5 in expression:  # a field of something; has() is the same for nothing
            select = _part(expression, 5)
            return self.cost(_part(select, 1)) + (0 if select.get(3) else _STEP)
        if 6 in expression:
            return self._call(expression[2][0], _part(expression, 6))
        if 7 in expression:  # a list
            return _LIST + sum(self.cost(_fields(each)) for each in _part(expression, 7).get(1, []))
        if 9 in expression:
            return self._loop(_part(expression, 9))
        raise NotImplementedError(f"no estimate for an expression of the kind {[*expression]}")

    def _loop(self, loop: _Message) -> int:
        over = _part(loop, 2)
        before = self.cost(over) + self.cost(_part(loop, 4))
        seen = self._seen(over)
        self._names[_text(loop, 1)] = seen and seen.inner
        self._names[_text(loop, 3)] = None
        each_time = self.cost(_part(loop, 5)) + self.cost(_part(loop, 6))
        return before + self._size(over) * each_time + self.cost(_part(loop, 7))

    def _call(self, number: int, call: _Message) -> int:
        name = _text(call, 2)
        arguments = [_fields(each) for each in call.get(3, [])]
        target = _part(call, 1) if 1 in call else None
        costs = [self.cost(each) for each in arguments]
        if name == "_?_:_":
            self._sizes[number] = max(self._size(arguments[1]), self._size(arguments[2]))
            return costs[0] + max(costs[1:])
        if name in ("_&&_", "_||_"):
            return sum(costs)
        if name == "substring" and target is not None:
            self._sizes[number] = self._size(target)
        of_target = self.cost(target) if target is not None else 0
        parts = arguments if target is None else [target, *arguments]
        sizes = [self._size(part) for part in parts]
        return of_target + sum(costs) + max(self._work(name, overload, sizes) for overload in self._overloads[number])

    def _work(self, name: str, overload: str, sizes: list[int]) -> int:
        """Of the call itself, when its parts are there."""
        if name in _ONE_STEP or overload in ("add_int64", "less_equals_timestamp", "less_equals_int64"):
            return _STEP
        if name in ("indexOf", "lastIndexOf", "substring", "isIP", "isCIDR", "cidr"):
            # The last three are one step to the estimate, and walks when they are evaluated: this takes the more.
            return max(_STEP, _walk(sizes[0]))
        if name in ("containsIP", "containsCIDR"):
            of_addresses = _walk(2 * _ADDRESS) + (_walk(_ADDRESS) + 1 if name == "containsCIDR" else 0)
            return of_addresses + _walk(sizes[1])
        if name in ("startsWith", "endsWith"):
            return _walk(sizes[1])
        if name == "contains":
            return _walk(sizes[0]) * _walk(sizes[1])
        if name == "matches":
            return _walk(sizes[0] + 1) * math.ceil(sizes[1] * _A_CHARACTER_OF_A_PATTERN)
        if name in ("_==_", "_!=_"):
            return _walk(min(sizes))
        if overload == "in_list":
            return sizes[1]
        raise NotImplementedError(f"no estimate for {name} ({overload})")

    def _size(self, expression: _Message) -> int:
        """How many characters or entries it has at most."""
        if 3 in expression:
            constant = _part(expression, 3)
            return len(_text(constant, 6)) if 6 in constant else 1
        if 7 in expression:
            return len(_part(expression, 7).get(1, []))
        known = self._sizes.get(expression.get(2, [0])[0])
        if known is not None:
            return known
        seen = self._seen(expression)
        if seen is None:
            return UNKNOWN
        return min(seen.longest * self._width, TEXT_MAX) if seen.kind in ("string", "dyn") else seen.longest

    def _seen(self, expression: _Message) -> Seen | None:
        """The part of the schema that it is, if it is one."""
        if 4 in expression:
            return self._names.get(_text(_part(expression, 4), 1))
        if 5 in expression:
            select = _part(expression, 5)
            whole = self._seen(_part(select, 1))
            return whole and whole.fields.get(_text(select, 2))
        return None


def _walk(size: int) -> int:
    return math.ceil(size * _A_CHARACTER)
