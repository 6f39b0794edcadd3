"""Takes exeat out of the kernel when its package is purged: at that moment its files are gone already.

    keep    before the package's files go: refuses while commands run under `exeat run`; keeps a copy of what `detach`
            needs, which is Python, libbpf, and exeat's own modules
    detach  at purge, run from that copy

Between the two the kernel enforces on.
"""

import json
import shutil
import sys
from pathlib import Path

_MODULES = Path("/usr/lib/exeat/common/exeat")
_KEPT = Path("/var/lib/exeat/purge")
_ADDRESSES = _KEPT / "addresses.json"
_REFUSED = 3  # prerm knows it
_NOT_NEEDED = shutil.ignore_patterns("__pycache__", "plane", "v1", "bpf")


def keep() -> int:
    """Whether the package's files may go now."""
    from exeat.errors import ExeatError
    from exeat.interface_settings import GATE_ADDRESSES
    from exeat.launch.runs import running, sweep
    from exeat.run import forget
    from exeat.settings import DEFAULT_FILE, read_settings

    sweep(forget)
    if alive := running():
        print(f"exeat: {', '.join(alive)} still runs: end it, then remove the package", file=sys.stderr)
        return _REFUSED
    addresses = set(GATE_ADDRESSES)
    try:
        addresses.update(read_settings(DEFAULT_FILE.read_text(), str(DEFAULT_FILE)).interfaces.gate)
    except (ExeatError, OSError, ValueError) as error:
        print(f"{error}\nif `spec.interfaces.gate` names addresses there, a purge leaves them on lo", file=sys.stderr)
    shutil.rmtree(_KEPT, ignore_errors=True)
    _KEPT.mkdir(mode=0o700, parents=True)
    shutil.copytree(_MODULES, _KEPT / "exeat", ignore=_NOT_NEEDED)
    _ADDRESSES.write_text(json.dumps(sorted(map(str, addresses))))
    shutil.copy(__file__, _KEPT)
    return 0


def detach() -> int:
    """Removes every program, map and address of exeat's."""
    from ipaddress import ip_address

    sys.dont_write_bytecode = True
    sys.path.insert(0, str(_KEPT))
    from exeat.kernel.instance import instances, remove_instance
    from exeat.kernel.local_addresses import take_off_loopback

    for name in instances():
        remove_instance(name)
        print(f"exeat: {name} enforces no more")
    for address in map(ip_address, json.loads(_ADDRESSES.read_text())):
        take_off_loopback(address)
    return 0


if __name__ == "__main__":
    sys.exit({"keep": keep, "detach": detach}[sys.argv[1]]())
