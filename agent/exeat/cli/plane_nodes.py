"""`exeat plane nodes`: who enforces which revision, since when, and who refuses one."""

import argparse
import time
from typing import Any

from exeat.cli.plane_client import PlaneClient, add_common, is_json, path_of, plane_of, show_json
from exeat.cli.plane_words import ago, facts_lines, labels_text, short
from exeat.cli.tables import RED, YELLOW, plain, several, table

_COLOURS = {"refused": RED, "away": YELLOW, "behind": YELLOW}
_VERBS = ("show", "add", "retire", "activate", "label")


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "nodes",
        help="list nodes and what they enforce; add, retire and label them",
        description="Lists the nodes: what each enforces by its own word and since when, and why it refuses what it "
        "refuses, or which workload stays as it was. A retired node is turned away until it is activated; what it "
        "enforced, it enforces on. Labels that are set here hold in place of what the node itself says.",
        usage="exeat plane nodes [NAME]\n"
        "       exeat plane nodes add NAME [LABEL=VALUE ...]\n"
        "       exeat plane nodes retire|activate NAME\n"
        "       exeat plane nodes label NAME [LABEL=VALUE ...] [LABEL- ...]",
    )
    parser.add_argument("words", nargs="*", metavar="NAME", help=f"a node; or first one of {', '.join(_VERBS)}")
    add_common(parser)
    parser.set_defaults(act=act, usage_error=parser.error)


def act(options: argparse.Namespace) -> int:
    """Lists them, or changes one."""
    words = options.words
    verb = words.pop(0) if words and words[0] in _VERBS else "show"
    if verb != "show" and not words:
        options.usage_error(f"{verb} needs the node's name")
    if verb not in ("add", "label") and len(words) > 1:
        options.usage_error(f"one node at a time: {' '.join(words[1:])} is too much")
    plane = plane_of(options)
    if not words:
        _list(options, plane)
        return 0
    name, labels = words[0], _labels(options, words[1:])
    if verb == "add":
        found = plane.post("/nodes", {"name": name, "labels": labels["set"]})
    elif verb == "label":
        found = plane.post(path_of("nodes", name, "labels"), labels)
    elif verb in ("retire", "activate"):
        found = plane.post(path_of("nodes", name, verb))
    else:
        found = plane.get(path_of("nodes", name))
    if is_json(options):
        show_json(found)
        return 0
    for line in _details(found):
        print(line)
    return 0


def _list(options: argparse.Namespace, plane: PlaneClient) -> None:
    found = plane.get("/nodes")
    if is_json(options):
        show_json(found)
        return
    now = time.time()
    nodes = found["nodes"]
    if not nodes:
        print("no node: an agent whose settings name this plane appears here once it has connected")
        return
    heads = ("NODE", "STATE", "ENFORCES", "SINCE", "SEEN", "WORKLOADS", "LABELS", "WHY NOT")
    rows = [
        [
            one["name"],
            one["state"],
            ",".join(f"{held['name']}@{short(held['revision'])[:7]}" for held in one["holdings"]) or "-",
            ago(max((held["since"] for held in one["holdings"]), default=None), now),
            ago(one["last_seen"], now),
            str(one["workload_count"]),
            labels_text(one["labels"]),
            one["fault"] or next(iter(one["failures"]), "-"),
        ]
        for one in nodes
    ]
    for line in table(heads, rows, [_COLOURS.get(one["state"]) for one in nodes]):
        print(line)


def _details(one: dict[str, Any]) -> list[str]:
    now = time.time()
    facts = {
        "node": one["name"],
        "state": one["state"] + (f" at {one['replica']}" if one["is_connected"] and one["replica"] else ""),
        "labels": labels_text(one["labels"]) + (f" (set here: {labels_text(one['pinned'])})" if one["pinned"] else ""),
        "agent": f"{one['version'] or '-'} on Linux {one['kernel'] or '-'}",
        "features": ", ".join(one["features"]) or "-",
        "seen": f"{ago(one['last_seen'], now)}, first {ago(one['first_seen'], now)}",
        "manifest": f"{one['acked_serial']} in force since {ago(one['acked'], now)}, {one['serial']} sent",
        "clock": f"{one['skew_ms']} ms from the plane's",
        "verdicts": f"{one['unreported']} wait to be told, {one['lost_events']} were lost before they could be read",
        "workloads": str(one["workload_count"]),
    }
    if one["fault"]:
        facts["refuses"] = f"{ago(one['fault_since'], now)}: {one['fault']}"
    lines = [plain(line) for line in facts_lines(facts)]
    lines += [f"not switched: {plain(text)}" for text in one["failures"]]
    lines += [f"complaint: {plain(text)}" for text in one["complaints"]]
    if not one["holdings"]:
        return [*lines, "", "it enforces no policy of the plane"]
    rows = [[held["name"], short(held["revision"]), ago(held["since"], now)] for held in one["holdings"]]
    held = several(len(rows), "policy").replace("policys", "policies")
    return [*lines, "", f"it enforces {held}:", *table(("POLICY", "REVISION", "SINCE"), rows)]


def _labels(options: argparse.Namespace, words: list[str]) -> dict[str, Any]:
    wanted: dict[str, str] = {}
    gone = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name:
            wanted[name] = value
        elif name.endswith("-") and len(name) > 1:
            gone.append(name[:-1])
        else:
            options.usage_error(f"`{word}` is no label: write LABEL=VALUE, or LABEL- to take it away")
    return {"set": wanted, "remove": gone}
