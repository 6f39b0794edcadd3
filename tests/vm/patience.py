"""A pytest plugin: gives the tests' limits on waiting as many times longer as an emulated machine is slower.

Only limits on how long something good may take. Waits that prove a silence, and exeat's own limits, stay as they are.
"""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

TIMES = 15  # the emulator shares its cores with whatever else runs; Python starts in 4 s there and in 0.1 s here
LIMITS = ("ANSWER_LIMIT_S", "END_LIMIT_S", "LIMIT_S", "START_LIMIT_S", "START_S", "PLENTY_S", "BUILD_S")
ARGUMENTS = ("timeout", "within_s")


def pytest_collection_finish() -> None:
    """All tests' modules are there, and none has run."""
    patient: set[int] = set()  # a function is seen in every module that imports it
    for module in [module for name, module in sys.modules.items() if name.partition(".")[0] in ("bed", "e2e")]:
        for name in LIMITS:
            if hasattr(module, name):
                setattr(module, name, TIMES * getattr(module, name))
        for function in _functions(module):
            if id(function) not in patient:
                patient.add(id(function))
                _lengthen(function)


def _functions(module: ModuleType) -> Iterator[Any]:
    for value in vars(module).values():
        for function in (value, *vars(value).values()) if isinstance(value, type) else (value,):
            if hasattr(function, "__code__"):
                yield function


def _lengthen(function: Any) -> None:
    """Multiplies the defaults of the arguments that are such limits."""
    only_by_name = function.__kwdefaults__ or {}
    for name in ARGUMENTS:
        if isinstance(only_by_name.get(name), float):
            only_by_name[name] *= TIMES
    defaults = function.__defaults__ or ()
    names = function.__code__.co_varnames[: function.__code__.co_argcount][-len(defaults) :] if defaults else ()
    if any(name in ARGUMENTS for name in names):
        function.__defaults__ = tuple(
            TIMES * default if name in ARGUMENTS and isinstance(default, float) else default
            for name, default in zip(names, defaults, strict=True)
        )


@pytest.hookimpl(tryfirst=True)
def pytest_report_header() -> str:
    """Says so."""
    return f"limits on waiting: {TIMES} times"
