"""JSON of the API server, bounded: one tenant's object must not keep everybody's from being read. Pure."""

import json
import re
from typing import Any

from exeat.plane.cluster.objects import Garbled

_DEPTH_MAX = 60  # of what is kept; an object's spec may have 20
_PARTS = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[\]{}]')
_TOO_DEEP = b'"nested too deep"'


def parse(content: bytes) -> Any:
    """The value. What nests deeper than any policy is cut off there. Raises Garbled."""
    try:
        try:
            return json.loads(content)
        except RecursionError:
            return json.loads(_flattened(content))
    except (ValueError, RecursionError) as error:
        raise Garbled(f"what came is no JSON: {error}") from error


def _flattened(content: bytes) -> bytes:
    kept: list[bytes] = []
    depth, begin = 0, 0
    for part in _PARTS.finditer(content):
        if part[0] in (b"[", b"{"):
            depth += 1
            if depth == _DEPTH_MAX:
                kept += content[begin : part.start()], _TOO_DEEP
        elif part[0] in (b"]", b"}"):
            if depth == _DEPTH_MAX:
                begin = part.end()
            depth -= 1
    return b"".join((*kept, content[begin:]))
