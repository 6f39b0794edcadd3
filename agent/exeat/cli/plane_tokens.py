"""`exeat plane tokens`: who may ask the plane, and for what."""

import argparse
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from exeat.cli.plane_client import add_common, is_json, path_of, plane_of, show_json
from exeat.cli.plane_words import ago, left
from exeat.cli.tables import YELLOW, plain, table
from exeat.cli.times import span_argument

_VERBS = ("list", "add", "remove")
_ROLES = ("viewer", "approver", "admin")
_NEVER = "never"


def add(tools: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the command to the parser."""
    parser = tools.add_parser(
        "tokens",
        help="list, make and remove the tokens by which people and tools ask the plane",
        description="A token is shown once, when it is made; the plane keeps its hash. viewer: sees everything; "
        "approver: also turns denials into rules, sets modes, quarantines, allows for a time; admin: everything. With "
        "--config the command works on the store itself, on the plane's machine, and needs no token: so the first one "
        "is made.",
        usage="exeat plane tokens [list]\n"
        "       exeat plane tokens add NAME --role ROLE [--expires 90d|never] [--config FILE]\n"
        "       exeat plane tokens remove NAME",
    )
    parser.add_argument("verb", nargs="?", choices=_VERBS, default="list", metavar="|".join(_VERBS))
    parser.add_argument("name", nargs="?", metavar="NAME", help="the token's: whose it is, or what for")
    parser.add_argument("--role", choices=_ROLES, help="what may be done with it")
    parser.add_argument("--expires", default="90d", metavar="90d|never", help="how long it is good (90d)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="the plane's settings: work on its store itself")
    add_common(parser)
    parser.set_defaults(act=act, usage_error=parser.error)


def act(options: argparse.Namespace) -> int:
    """Lists, makes or removes them."""
    if options.verb != "list" and not options.name:
        options.usage_error(f"{options.verb} needs the token's name")
    if options.verb == "add" and not options.role:
        options.usage_error(f"say what may be done with it: --role {'|'.join(_ROLES)}")
    if options.verb == "list":
        _list(options)
    elif options.verb == "add":
        _show_new(options, _made(options))
    elif options.config:
        _in_store(options.config, lambda tx, people: people.remove(tx, options.name))
        print(f"removed: {plain(options.name)}")
    else:
        plane_of(options).delete(path_of("tokens", options.name))
        print(f"removed: {plain(options.name)}")
    return 0


def _made(options: argparse.Namespace) -> str:
    if options.config is None:
        body = {"name": options.name, "role": options.role, "expires": options.expires}
        return str(plane_of(options).post("/tokens", body)["token"])
    now_ns = time.time_ns()
    expires_ns = 0
    if options.expires != _NEVER:
        try:
            expires_ns = now_ns + span_argument(options.expires) * 10**9
        except argparse.ArgumentTypeError as error:
            options.usage_error(f"--expires: {error}")
    return str(
        _in_store(
            options.config,
            lambda tx, people: people.add(
                tx, people.TokenWish(options.name, people.Role(options.role), expires_ns), now_ns
            ),
        )
    )


def _in_store(config: Path, act: Any) -> Any:
    """In one transaction, on the plane's machine. Imported here: no other command needs a database."""
    from exeat.plane import people
    from exeat.plane.settings_file import load_settings, store_url
    from exeat.plane.store.database import open_database

    database = open_database(store_url(load_settings(config)))
    try:
        with database.writing() as tx:
            return act(tx, people)
    finally:
        database.close()


def _show_new(options: argparse.Namespace, token: str) -> None:
    if is_json(options):
        show_json({"name": options.name, "token": token})
    else:
        print(token)


def _list(options: argparse.Namespace) -> None:
    found = plane_of(options).get("/tokens")
    if is_json(options):
        show_json(found)
        return
    now = datetime.now(UTC).timestamp()
    tokens = found["tokens"]
    rows = [
        [one["name"], one["role"], ago(one["made"], now), left(one["expires"], now) if one["expires"] else _NEVER]
        + [ago(one["used"], now)]
        for one in tokens
    ]
    for line in table(
        ("TOKEN", "ROLE", "MADE", "ENDS", "USED"), rows, [YELLOW if one["is_expired"] else None for one in tokens]
    ):
        print(line)
