"""What is defined twice must be the same twice: C, Python and protobuf."""

import ctypes
import re
import subprocess
from dataclasses import fields
from pathlib import Path

import pytest

from exeat.agent import readings
from exeat.core import grants
from exeat.kernel import abi, entries, events, guest_abi
from exeat.kernel.programs import GUEST_STEPS
from exeat.model import names
from exeat.model.policy import Limits
from exeat.model.verdicts import Reason, Verdict

REPOSITORY = Path(__file__).parents[2]
BPF = REPOSITORY / "bpf"
STRUCTURES = {
    "settings": entries.Settings,
    "workload": entries.Workload,
    "limit": entries.Limit,
    "policy": entries.Policy,
    "network_key": entries.NetworkKey,
    "network": entries.Network,
    "port_key": entries.PortKey,
    "port": entries.Port,
    "host_key": entries.HostKey,
    "host_slot": entries.HostSlot,
    "host": entries.Host,
    "granted_key": entries.GrantedKey,
    "grant_slot": entries.GrantSlot,
    "granted": entries.Granted,
    "grant_key": entries.GrantKey,
    "grant": entries.Grant,
    "gate_key": entries.GateKey,
    "gate": entries.Gate,
    "asker_key": entries.AskerKey,
    "asker": entries.Asker,
    "server": entries.Server,
    "traffic": abi.Traffic,
    "window": abi.Window,
    "usage": abi.Usage,
    "destination_key": abi.DestinationKey,
    "destination": abi.Destination,
    "ordinal_key": abi.OrdinalKey,
    "ordinal": abi.Ordinal,
    "stamp": abi.Stamp,
    "verified_name": abi.VerifiedName,
    "event": abi.Event,
    "question": abi.Question,
    "hello_answer": abi.HelloAnswer,
    "interface": guest_abi.Interface,
    "address_key": guest_abi.AddressKey,
    "address_owner": guest_abi.AddressOwner,
    "guest": guest_abi.Guest,
    "flow_key": guest_abi.FlowKey,
    "guest_flow": guest_abi.GuestFlow,
    "place_key": guest_abi.PlaceKey,
    "asked_key": guest_abi.AskedKey,
    "asked": guest_abi.Asked,
}


def enumerators(text: str, name: str) -> dict[str, int]:
    """The members of an enum with their numbers, from C or protobuf."""
    body = re.search(rf"enum {name} \{{(.*?)\}}", text, re.DOTALL)
    assert body, f"no enum {name}"
    plain = re.sub(r"/\*.*?\*/|//[^\n]*", "", body[1], flags=re.DOTALL)
    return {word: int(number) for word, number in re.findall(r"(\w+)\s*=\s*(\d+)", plain)}


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Size of every struct and offset of every field, as a C compiler sees bpf/abi.h."""
    lines = []
    for name, structure in STRUCTURES.items():
        lines.append(f'printf("{name} %zu\\n", sizeof(struct {name}));')
        for field, *_ in structure._fields_:
            lines.append(f'printf("{name}.{field} %zu\\n", offsetof(struct {name}, {field}));')
    source = tmp_path_factory.mktemp("abi") / "layout.c"
    source.write_text(
        "#include <linux/types.h>\n#include <linux/bpf.h>\n#include <stddef.h>\n#include <stdio.h>\n"
        f'#include "{BPF / "abi.h"}"\n#include "{BPF / "guest_abi.h"}"\n'
        "int main(void) {" + "\n".join(lines) + "return 0; }\n"
    )
    program = source.with_suffix("")
    subprocess.run(["gcc", "-o", program, source], check=True)
    out = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {key: int(number) for key, number in (line.split() for line in out.splitlines())}


@pytest.mark.parametrize("name", STRUCTURES)
def test_a_structure_has_the_same_fields_at_the_same_places_in_c_and_python(name: str, layout: dict[str, int]) -> None:
    """A field moved in one of them would make the kernel read another's bytes."""
    structure = STRUCTURES[name]
    assert layout[name] == ctypes.sizeof(structure)
    for field, *_ in structure._fields_:
        assert layout[f"{name}.{field}"] == getattr(structure, field).offset, field


def test_every_field_of_the_c_structures_is_known_to_python() -> None:
    """Sizes could agree by padding while a field is missing."""
    headers = "".join((BPF / name).read_text() for name in ("entries.h", "abi.h", "guest_abi.h"))
    text = re.sub(r"/\*.*?\*/", "", headers, flags=re.DOTALL)
    for name, structure in STRUCTURES.items():
        body = re.search(rf"struct {name} \{{(.*?)\n\}};", text, re.DOTALL)
        assert body, name
        fields = re.findall(r"(\w+)(?:\[[^\]]*\])?;", body[1])
        assert fields == [field for field, *_ in structure._fields_], name


def test_verdicts_and_reasons_are_the_same_words_in_c_python_and_protobuf() -> None:
    """An operator greps for one word everywhere."""
    c = (BPF / "reasons.h").read_text()
    proto = (REPOSITORY / "proto/exeat/v1/verdict.proto").read_text()
    for python, in_c, in_proto, prefix in (
        (Verdict, "verdict", "Verdict", "VERDICT_"),
        (Reason, "reason", "Reason", "REASON_"),
    ):
        expected = {member.name: member.value for member in python}
        of_c = enumerators(c, in_c)
        of_c.pop("VERDICTS", None)
        of_c.pop("REASONS", None)
        assert of_c == expected
        of_proto = enumerators(proto, in_proto)
        assert of_proto.pop(f"{prefix}UNSPECIFIED") == 0
        assert {word.removeprefix(prefix): number for word, number in of_proto.items()} == expected


@pytest.mark.parametrize(
    ("enum", "in_c", "prefix"),
    [
        (abi.Hook, "hook", "HOOK_"),
        (abi.Limited, "limited", "LIMITED_"),
        (abi.KernelMode, "mode", "MODE_"),
        (abi.Outcome, "outcome", ""),
    ],
)
def test_small_enums_agree(enum: type[abi.Hook], in_c: str, prefix: str) -> None:
    """Hooks, modes and outcomes are numbers in the kernel and words here."""
    text = (BPF / "entries.h").read_text() + (BPF / "abi.h").read_text() + (BPF / "judge.h").read_text()
    members = {word.removeprefix(prefix): number for word, number in enumerators(text, in_c).items()}
    assert members == {member.name: member.value for member in enum}


def test_limits_agree() -> None:
    """Numbers that C and Python both state."""
    text = (BPF / "limits.h").read_text()
    limits = {word: int(number) for word, number in re.findall(r"#define (\w+) (\d+)\b", text)}
    assert limits["NAME_MAX"] == names.NAME_MAX == entries.NAME_MAX
    assert limits["ANCESTORS_MAX"] == abi.ANCESTORS_MAX
    assert limits["EVENT_PAGES"] * 4096 == events.RING_BYTES
    assert {f"{table.upper()}_MAX": most for table, most in readings.LIMITS.items()}.items() <= limits.items()
    text = (BPF / "entries.h").read_text()
    numbers = {word: int(number, 0) for word, number in re.findall(r"enum \{ (\w+) = (\w+) \};", text)}
    assert numbers == {
        "LIMITS": entries.LIMITS,
        "GRANT_SLOTS": entries.GRANT_SLOTS,
        "GATE_PRIORITY": entries.GATE_PRIORITY,
        "SPARED": entries.SPARED,
    }
    assert len(abi.Limited) == entries.LIMITS == len(fields(Limits))
    for limited in abi.Limited:
        assert Reason[f"LIMIT_{limited.name}"] == Reason.LIMIT_BYTES + limited
    assert entries.GRANT_SLOTS == grants.SLOTS
    text = (BPF / "guest_abi.h").read_text()
    limits = {word: int(number) for word, number in re.findall(r"#define (\w+) (\d+)\b", text)}
    for name in ("LEARNT_V6_MAX", "GUEST_FLOWS", "GUEST_HOLDS", "GUEST_ASKED", "GUEST_TOLD"):
        assert limits[name] == getattr(guest_abi, name), name
    assert f"INTERFACE_BIT (1ULL << {guest_abi.INTERFACE_BIT.bit_length() - 1})" in text
    assert {f"{table.upper()}_MAX": most for table, most in readings.GUEST_LIMITS.items()}.items() <= limits.items()
    steps = enumerators((BPF / "guest_state.h").read_text(), "step")
    assert steps == {word.replace("on_guest_", "step_").upper(): place for place, word in enumerate(GUEST_STEPS)}
    owners = enumerators(text, "owner_kind")
    assert (owners["OWNER_GUEST"], owners["OWNER_GATEWAY"]) == (guest_abi.OWNER_GUEST, guest_abi.OWNER_GATEWAY)
    words = enumerators((BPF / "reasons.h").read_text(), "verdict") | enumerators(
        (BPF / "reasons.h").read_text(), "reason"
    )
    assert (words["VERDICTS"], words["REASONS"]) == (abi.VERDICTS, abi.REASONS)
