"""`exeat plane allow`: opens one destination to one workload, for a time, on any node."""

import argparse

from exeat.cli.plane_commands import add_workload, ask
from exeat.cli.tables import plain, several
from exeat.cli.times import span_argument


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "allow",
        help="open a destination to a workload for a time",
        description="Adds a rule to one workload that ends by itself, as `exeat allow` does on the node itself; or "
        "takes one back with --end.",
        usage="exeat plane allow NODE/WORKLOAD HOST|IP|CIDR[:PORTS][/PROTO] --for 1h --reason TEXT\n"
        "       exeat plane allow NODE/WORKLOAD --end ID",
    )
    add_workload(parser)
    parser.add_argument(
        "destination",
        nargs="?",
        metavar="HOST|IP|CIDR[:PORTS][/PROTO]",
        help="as --allow and --allow-cidr of exeat run take it, e.g. api.example.com or 203.0.113.0/24:5432",
    )
    parser.add_argument("--for", dest="for_s", type=span_argument, metavar="1h", help="how long, at most 30d")
    parser.add_argument("--reason", metavar="TEXT", help="shown with the rule and kept in the log")
    parser.add_argument("--end", metavar="ID", help="end this allowance now")
    parser.set_defaults(act=act, usage_error=parser.error)


def act(options: argparse.Namespace) -> int:
    """Opens it, or ends an allowance."""
    where = "/".join(options.workload)
    if options.end is not None:
        if options.destination or options.for_s or options.reason:
            options.usage_error("--end ends what there is: leave the destination, --for and --reason out")
        if found := ask(options, {"do": "disallow", "allowance": options.end}):
            print(f"allowance {plain(options.end)} has ended; {several(found['cut'], 'open connection')} with it")
        return 0
    given = (("HOST", options.destination), ("--for", options.for_s), ("--reason", options.reason))
    missing = [word for word, value in given if not value]
    if missing:
        options.usage_error(f"an allowance needs {', '.join(missing)}: its end and its reason are shown with it")
    what = {"do": "allow", "destination": options.destination, "for_s": options.for_s, "reason": options.reason}
    if found := ask(options, what):
        print(f"allowed: {plain(options.destination)} for {plain(where)}")
        print(f"sooner: exeat plane allow {plain(where)} --end {plain(found['allowance'])}")
    return 0
