"""`exeat doctor`: what this host has of what enforcement needs, found by trying."""

import argparse
import json
import os
from dataclasses import asdict

from exeat.errors import KernelError
from exeat.kernel.doctor import examine


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = commands.add_parser(
        "doctor",
        help="list what this kernel has of what enforcement needs",
        description="Tries everything that exeat needs on this host and says what it costs to lack it. "
        "Exits with 1 if something is missing.",
    )
    parser.add_argument("-o", "--output", choices=["table", "json"], default="table", help="how to show it")
    parser.set_defaults(act=act)


def act(options: argparse.Namespace) -> int:
    """Examines the host."""
    if os.geteuid() != 0:
        raise KernelError("only root can try what the kernel allows: sudo exeat doctor")
    findings = list(examine())
    if options.output == "json":
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = max(len(finding.feature) for finding in findings)
        for finding in findings:
            print(f"{'ok     ' if finding.is_there else 'MISSING'}  {finding.feature:{width}}  {finding.detail}")
            if not finding.is_there:
                print(f"         {'':{width}}  without it: {finding.cost}")
    return 0 if all(finding.is_there for finding in findings) else 1
