"""What a rule of a CustomResourceDefinition may see: the static types that an API server gives to `self`.

It makes them of the schema (apiserver, pkg/cel/common, SchemaDeclType): what has no type there, because its unknown
fields are preserved, is not shown to rules, and neither is a list, a map or a field of it. A rule that names such a
field does not compile, and the whole definition is refused. Here the types are messages of protobuf, which CEL knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext import ext_strings
from google.protobuf import descriptor_pb2, struct_pb2, timestamp_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool

from deploy import crd_functions

# Of CEL's grammar: fields of such a name are written `__name__` in rules.
RESERVED = {
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return",
}  # fmt: skip
# CEL's for "may be of any size".
UNKNOWN = 2**64 - 1
# MaxRequestSizeBytes, without the quotation marks: in bytes, no text is longer.
TEXT_MAX = 3 * 1024 * 1024 - 2
_TIME_MAX = 32
_PLAIN = {
    "string": (cel.Type.STRING, FieldDescriptorProto.TYPE_STRING),
    "boolean": (cel.Type.BOOL, FieldDescriptorProto.TYPE_BOOL),
    "integer": (cel.Type.INT, FieldDescriptorProto.TYPE_INT64),
    "number": (cel.Type.DOUBLE, FieldDescriptorProto.TYPE_DOUBLE),
}
# CEL's own messages: for it they are no messages.
_SPECIAL = {
    "dyn": (cel.Type.DYN, ".google.protobuf.Value"),
    "timestamp": (cel.Type.TIMESTAMP, ".google.protobuf.Timestamp"),
}


@dataclass(frozen=True)
class Seen:
    """A type, and how many characters or entries a value of it has at most."""

    kind: str
    longest: int = 1
    inner: Seen | None = None
    fields: Mapping[str, Seen] = field(default_factory=dict)


def seen(schema: dict[str, Any], is_root: bool = False) -> Seen | None:
    """What a rule sees of it; None: nothing."""
    kind = schema.get("type")
    if schema.get("x-kubernetes-int-or-string"):
        return Seen("dyn", schema.get("maxLength", TEXT_MAX))
    if kind == "array":
        inner = seen(schema.get("items", {}))
        return inner and Seen("list", schema.get("maxItems", UNKNOWN), inner)
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        inner = seen(schema["additionalProperties"])
        return inner and Seen("map", schema.get("maxProperties", UNKNOWN), inner)
    if kind == "object":
        properties = dict(schema.get("properties", {}))
        if is_root:
            text = {"type": "string"}
            known = {"type": "object", "properties": {"name": text, "generateName": text}}
            properties |= {"apiVersion": text, "kind": text, "metadata": known}
        fields = {_written(name): seen(inner) for name, inner in properties.items()}
        return Seen("object", UNKNOWN, None, {name: inner for name, inner in fields.items() if inner})
    if kind == "string" and schema.get("format") == "date-time":
        return Seen("timestamp", _TIME_MAX)
    if kind == "string":
        return Seen("string", schema.get("maxLength", TEXT_MAX))
    return Seen(kind) if kind in _PLAIN else None


def _written(name: str) -> str:
    if not name.isidentifier() or "__" in name:
        raise ValueError(f"how rules write the field {name} is not known here")
    return f"__{name}__" if name in RESERVED else name


def compiled(rule: str, of: Seen | None) -> cel.Expression:
    """As the API server compiles it when it is given the definition. Raises ValueError with CEL's words."""
    if of is None:
        raise ValueError(f"the rule {rule} is about something of unknown type")
    messages = _Messages()
    variables = {"self": messages.type_of(of)}
    functions, extensions = crd_functions.declared(crd_functions.NETWORK), [ext_strings.ExtStrings()]
    environment = cel.NewEnv(messages.pool(), variables=variables, functions=functions, extensions=extensions)
    try:
        expression = environment.compile(rule)
    except RuntimeError as error:
        raise ValueError(f"compilation failed: {error}") from None
    if expression.return_type() != cel.Type.BOOL:
        raise ValueError(f"the rule {rule} says neither yes nor no")
    return expression


class _Messages:
    """The messages of one rule's types."""

    def __init__(self) -> None:
        uses = [timestamp_pb2.DESCRIPTOR.name, struct_pb2.DESCRIPTOR.name]
        self._file = descriptor_pb2.FileDescriptorProto(
            name="seen.proto", package="seen", syntax="proto3", dependency=uses
        )

    def pool(self) -> DescriptorPool:
        pool = DescriptorPool()
        for each in (timestamp_pb2.DESCRIPTOR, struct_pb2.DESCRIPTOR):
            pool.AddSerializedFile(each.serialized_pb)
        pool.AddSerializedFile(self._file.SerializeToString())
        return pool

    def type_of(self, of: Seen) -> cel.Type:
        if of.inner is not None:
            inner = self.type_of(of.inner)
            return cel.Type.List(inner) if of.kind == "list" else cel.Type.Map(cel.Type.STRING, inner)
        if of.kind == "object":
            return cel.Type(self._message(of).removeprefix("."))
        return _SPECIAL[of.kind][0] if of.kind in _SPECIAL else _PLAIN[of.kind][0]

    def _message(self, of: Seen) -> str:
        parts = [(name, inner, self._part(inner)) for name, inner in of.fields.items()]
        message = self._file.message_type.add(name=f"Seen{len(self._file.message_type)}")
        for number, (name, inner, (kind, type_name)) in enumerate(parts, 1):
            label = FieldDescriptorProto.LABEL_OPTIONAL
            if inner.kind == "map":
                camel = "".join(word[:1].upper() + word[1:] for word in name.split("_"))
                entry = message.nested_type.add(name=f"{camel}Entry")  # protobuf wants this very name
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type=FieldDescriptorProto.TYPE_STRING, label=label)
                entry.field.add(name="value", number=2, type=kind, type_name=type_name, label=label)
                kind, type_name = FieldDescriptorProto.TYPE_MESSAGE, f".seen.{message.name}.{entry.name}"
            if inner.kind in ("list", "map"):
                label = FieldDescriptorProto.LABEL_REPEATED
            message.field.add(name=name, number=number, type=kind, type_name=type_name, label=label)
        return f".seen.{message.name}"

    def _part(self, of: Seen) -> tuple[FieldDescriptorProto.Type.ValueType, str | None]:
        """Of a field, or of what is in it."""
        one = of.inner or of
        if one.inner is not None:
            raise ValueError("a list of lists is not known here")
        if one.kind == "object":
            return FieldDescriptorProto.TYPE_MESSAGE, self._message(one)
        if one.kind in _SPECIAL:
            return FieldDescriptorProto.TYPE_MESSAGE, _SPECIAL[one.kind][1]
        return _PLAIN[one.kind][1], None
