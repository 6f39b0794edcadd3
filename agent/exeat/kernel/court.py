"""The judge in the kernel, asked about policies that nobody is under: one program, tables of its own, no hook.

`policy test` and `policy replay` decide by the same program and the same compiled tables as traffic. Nothing is
attached. The pins that the compiler makes are removed before the first question: from then on everything is this
process's alone, and ends with it however it ends.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from exeat.core.grants import SOMEWHERE, Change, Slot
from exeat.errors import KernelError
from exeat.kernel.abi import NEVER
from exeat.kernel.compiling import compile_and_pin
from exeat.kernel.grants import GrantTables
from exeat.kernel.instance import Instance, instances, remove_instance
from exeat.kernel.programs import PROGRAMS
from exeat.kernel.source import bpf_directory, joined_source
from exeat.kernel.tables import Answer, Tables
from exeat.model.networks import Address, mapped
from exeat.model.tables import TableSet

_PREFIX = "court-"
_PROGRAM = next(program for program in PROGRAMS if program.name == "on_question")
_MAPS = ("settings", "policies", "networks", "ports", "hosts", "grants", "granted")
_numbers = count()


class Bench:
    """One policy before the court."""

    def __init__(self, instance: Instance, tables: Tables, policy_id: int) -> None:
        self._tables = tables
        self._policy_id = policy_id
        self._grants = GrantTables(instance, policy_id)

    def ask(self, protocol: int, address: Address, port: int, *, name: str = "", has_ech: bool = False) -> Answer:
        """The kernel's answer to a connection, or with a name to its hello."""
        return self._tables.ask(self._policy_id, protocol, mapped(address), port, name=name, has_ech=has_ech)

    @contextmanager
    def granted(self, name: str, address: Address, ports_id: int) -> Iterator[None]:
        """As if the name had been resolved to the address, meanwhile. Without ports a name opens nothing."""
        if not ports_id:
            yield
            return
        place = mapped(address)
        grants = ((name, place, ports_id, NEVER), (name, SOMEWHERE, ports_id, NEVER))
        self._grants.apply(Change(grants=grants, granted=((place, (Slot(ports_id, NEVER),)),)))
        try:
            yield
        finally:
            self._grants.apply(Change(gone_granted=(place,), gone_grants=((name, place), (name, SOMEWHERE))))


class Court:
    """An instance without any hook."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._tables = Tables(instance)

    @contextmanager
    def hearing(self, table_set: TableSet) -> Iterator[Bench]:
        """A policy's tables, for as long as questions about it are asked."""
        policy_id = self._tables.add(table_set)
        try:
            yield Bench(self._instance, self._tables, policy_id)
        finally:
            self._tables.remove(policy_id)


@contextmanager
def open_court() -> Iterator[Court]:
    """The court. Raises KernelError where this kernel or user cannot have one."""
    _sweep()
    instance = Instance(f"{_PREFIX}{os.getpid()}-{next(_numbers)}")
    try:
        try:
            _compile(instance.directory)
            for name in _MAPS:
                instance.map(name)
            instance.program(_PROGRAM.name)
        finally:
            remove_instance(instance.name)
        yield Court(instance)
    finally:
        instance.close()


def _compile(directory: Path) -> None:
    """Only the judge: a third of the time that all programs take."""
    for part in ("maps", "programs"):
        (directory / part).mkdir(mode=0o700, parents=True)
    refused = compile_and_pin(directory / "maps", directory / "programs", (_PROGRAM,), _source())
    if refused:
        raise KernelError(f"this kernel ({os.uname().release}) refused {_PROGRAM.name}: {refused[_PROGRAM.name]}")


def _source() -> str:
    """The judge's part of the text, behind the headers of the system that the whole begins with."""
    lines = (bpf_directory() / "enforcer.c").read_text().splitlines()
    system = [line for line in lines if line.startswith("#include <")]
    return "\n".join([*system, joined_source("questions.h")])


def _sweep() -> None:
    """Removes what a court left that was killed while it was made."""
    for name in instances():
        pid = name.removeprefix(_PREFIX).partition("-")[0]
        if name.startswith(_PREFIX) and not Path("/proc", pid).exists():
            remove_instance(name)
