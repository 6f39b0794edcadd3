"""The plane's settings: what they mean, and that nothing in them can be misread."""

from __future__ import annotations

from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from exeat.errors import ExeatError, PolicyError
from exeat.plane.policies.rollout_judge import Plan
from exeat.plane.settings import DEFAULT_FILE, Enroll, PlaneSettings, StorePlace, WebDoor
from exeat.plane.settings_file import load_settings, read_settings, store_url
from exeat.settings import Listen

AGENTS = "  agents: {certificate: /etc/exeat/plane.crt, key: /etc/exeat/plane.key, ca: /etc/exeat/agents-ca.crt}\n"
EXAMPLE = Path(__file__).parents[2] / "packaging" / "plane.yaml"


def read(spec: str, agents: str = AGENTS) -> PlaneSettings:
    """The settings with this in `spec`."""
    return read_settings(f"apiVersion: exeat.dev/v1\nkind: PlaneSettings\nspec:\n{agents}{spec}", "plane.yaml")


def problems(spec: str, agents: str = AGENTS) -> list[str]:
    """Why they are refused."""
    with pytest.raises(PolicyError) as caught:
        read(spec, agents)
    return caught.value.problems


def test_what_is_left_out_has_its_default() -> None:
    """Only the agents' door must be given, because nobody can guess whose certificates those are."""
    settings = read("")
    assert settings.agents.listen == Listen(ip_address("0.0.0.0"), 9470)
    assert settings.agents.ca == Path("/etc/exeat/agents-ca.crt")
    assert settings.web == WebDoor(Listen(ip_address("127.0.0.1"), 9471))
    assert settings.store == StorePlace("sqlite:/var/lib/exeat-plane/plane.db")
    assert (settings.policies, settings.signing_key, settings.enroll) == (None, None, Enroll.CERTIFICATE)
    assert settings.rollout is None
    assert settings.retention.verdicts == timedelta(days=30)
    assert settings.name


def test_every_field_is_read() -> None:
    """Each into its own place."""
    settings = read(
        """
  name: plane-2
  web:
    listen: "[::]:443"
    certificate: /a.crt
    key: /a.key
    url: https://plane.example.com
    oidc:
      user_header: X-Forwarded-Email
      groups_header: X-Forwarded-Groups
      trusted_proxies: [10.0.0.5, "2001:db8::/32"]
      viewer_groups: [staff]
      approver_groups: [security, leads]
      admin_groups: [platform]
  store: postgresql://plane@db.example.com/exeat
  policies: /srv/policies
  rollout: {stages: [5, 100], soak: 1h, max_denials: 0}
  signing_key: /etc/exeat/plane-signing.key
  enroll: listed
  retention: {verdicts: 7d, tallies: 90d}
"""
    )
    web, oidc = settings.web, settings.web.oidc
    assert oidc is not None
    assert (settings.name, settings.enroll) == ("plane-2", Enroll.LISTED)
    assert (str(web.listen), web.certificate, web.key) == ("[::]:443", Path("/a.crt"), Path("/a.key"))
    assert (web.origin, web.is_secure) == ("https://plane.example.com", True)
    assert (oidc.user_header, oidc.groups_header) == ("X-Forwarded-Email", "X-Forwarded-Groups")
    assert oidc.trusted_proxies == (ip_network("10.0.0.5"), ip_network("2001:db8::/32"))
    assert (oidc.viewer_groups, oidc.approver_groups) == (("staff",), ("security", "leads"))
    assert oidc.admin_groups == ("platform",)
    assert settings.store == StorePlace("postgresql://plane@db.example.com/exeat")
    assert (settings.policies, settings.signing_key) == (Path("/srv/policies"), Path("/etc/exeat/plane-signing.key"))
    assert settings.rollout == Plan((5, 100), 3600, 0)
    assert (settings.retention.verdicts, settings.retention.tallies) == (timedelta(days=7), timedelta(days=90))


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("  agent: {}\n", "did you mean `agents`"),
        ("  enroll: everybody\n", "write one of certificate, listed"),
        ("  name: no\n", "write it in quotes"),
        ("  policies: policies.d\n", "write the whole path"),
        ("  policies: /srv/../etc\n", "without `..`"),
        ("  store: plane.db\n", "this is no store"),
        ("  store: sqlite:plane.db\n", "this is no store"),
        ("  store: {file: /a, environment: B}\n", "names no place"),
        ("  store: {environment: A-B}\n", "a variable's name"),
        ("  retention: {verdicts: 5m}\n", "too short or too long"),
        ("  retention: {verdicts: a month}\n", "is no span of time"),
        ("  rollout: {soak: 1h}\n", "write `policies` too"),
        ("  policies: /p\n  rollout: {stages: [50, 10, 100]}\n", "must be more than the one before"),
        ("  policies: /p\n  rollout: {stages: [10, 50]}\n", "end with 100"),
        ("  policies: /p\n  rollout: {stages: [0, 100]}\n", "a number from 1 to 100"),
        ("  web: {listen: localhost}\n", "is no place to listen"),
        ("  web: {listen: 127.0.0.1:0}\n", "is no place to listen"),
        ("  web: {certificate: /a.crt}\n", "write both, or neither"),
        ("  web: {url: plane.example.com}\n", "write one like `https://plane.example.com`"),
        ("  web: {url: https://plane.example.com/console}\n", "write one like"),
        ("  web: {behind_proxy: yes}\n", "write `true` or `false`"),
        ("  web: {oidc: {user_header: X-User}}\n", "has no `trusted_proxies`"),
        (
            "  web: {oidc: {user_header: a b, groups_header: G, trusted_proxies: [10.0.0.1]}}\n",
            "write letters, digits and `-`",
        ),
        (
            "  web: {oidc: {user_header: U, groups_header: G, trusted_proxies: [proxy]}}\n",
            "is no proxy's address",
        ),
        (
            "  web: {oidc: {user_header: U, groups_header: G, trusted_proxies: []}}\n",
            "is an empty list",
        ),
    ],
)
def test_what_could_be_misread_is_refused(spec: str, sentence: str) -> None:
    """With its line, and what to write instead."""
    found = problems(spec)
    assert any(sentence in one for one in found), found
    assert all(one.startswith("plane.yaml:") for one in found)


def test_a_console_in_the_clear_is_for_this_host_or_behind_a_proxy() -> None:
    """Tokens travel on it."""
    assert "tokens would travel in the clear" in problems("  web: {listen: 0.0.0.0:9471}\n")[0]
    assert read("  web: {listen: 127.0.0.1:80}\n").web.is_secure is False
    assert read("  web: {listen: '[::1]:80'}\n").web.origin == "http://[::1]:80"
    behind = read("  web: {listen: 0.0.0.0:9471, behind_proxy: true, url: 'https://plane.example.com'}\n").web
    assert (behind.is_behind_proxy, behind.is_secure) == (True, True)
    assert read("  web: {listen: 0.0.0.0:9471, certificate: /a, key: /b}\n").web.is_secure


def test_the_agents_door_needs_its_files() -> None:
    """All that is missing is told at once."""
    found = problems("", agents="  agents: {listen: 0.0.0.0:9470}\n")
    assert [one.partition("no `")[2].partition("`")[0] for one in found] == ["certificate", "key", "ca"]
    assert "has no `agents`" in problems("  name: x\n", agents="")[0]
    with pytest.raises(PolicyError, match="begin with `apiVersion"):
        read_settings("- a list", "plane.yaml")
    with pytest.raises(PolicyError, match="write `kind: PlaneSettings`"):
        read_settings(f"apiVersion: exeat.dev/v1\nkind: AgentSettings\nspec:\n{AGENTS}", "plane.yaml")


def test_a_connection_string_may_stand_elsewhere(tmp_path: Path) -> None:
    """It may hold a password, which then appears in no error."""
    secret = tmp_path / "store"
    secret.write_text("postgresql://plane:hunter2@db/exeat\n")
    assert store_url(read("")) == "sqlite:/var/lib/exeat-plane/plane.db"
    assert store_url(read(f"  store: {{file: {secret}}}\n")) == "postgresql://plane:hunter2@db/exeat"
    settings = read("  store: {environment: STORE}\n")
    assert store_url(settings, {"STORE": "postgresql://x/y"}) == "postgresql://x/y"
    with pytest.raises(ExeatError, match="the variable STORE: write"):
        store_url(settings, {})
    secret.write_text("hunter2\n")
    with pytest.raises(ExeatError, match="write `postgresql://") as caught:
        store_url(read(f"  store: {{file: {secret}}}\n"))
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ExeatError, match="cannot be read"):
        store_url(read(f"  store: {{file: {tmp_path}/none}}\n"))


def test_the_example_says_every_default(tmp_path: Path) -> None:
    """What is in packaging/plane.yaml, beside the files and the name, is what holds without it."""
    shown, bare = load_settings(EXAMPLE), read("")
    assert (shown.web, shown.store, shown.enroll, shown.retention) == (
        bare.web,
        bare.store,
        bare.enroll,
        bare.retention,
    )
    assert shown.agents.listen == bare.agents.listen
    assert Path("/etc/exeat/plane.yaml") == DEFAULT_FILE
    with pytest.raises(PolicyError, match="cannot be read"):
        load_settings(tmp_path / "none.yaml")
