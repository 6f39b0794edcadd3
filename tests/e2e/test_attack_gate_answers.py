"""A lying upstream: an alias is followed from the name that was asked, and from no other."""

import pytest

from bed import Bed, Host, Manner
from e2e.escapes import dial, says
from e2e.gatekeeper import ask_dns, fresh_resolver, keep_gate
from e2e.guard import Guard, rule


@pytest.mark.parametrize("owner", ["good.test", "other.test", "evil.test"])
def test_an_alias_of_another_name_leads_nowhere(guard: Guard, bed: Bed, good: Host, owner: str) -> None:
    """Where the name that was asked has nothing at all. Under its own name, the same records are its answer."""
    resolver = fresh_resolver(bed, {"good.test": {"TXT": ['"no address"']}})
    records = f"{owner}. 300 IN CNAME edge.example.", f"edge.example. 300 IN A {good.address4}"
    resolver.behave(Manner(answers=records), "good.test")
    with keep_gate(guard, bed, resolver, rule(hosts=("good.test", "other.test"), ports=(7,))) as kept:
        answer = kept.run(lambda: ask_dns("good.test"))
        heard = kept.run(lambda: dial(good.address4))
    is_its_own = owner == "good.test"
    assert answer.addresses == ([good.address4] if is_its_own else [])
    assert heard == (says(good, b"hello") if is_its_own else "EPERM")
    assert is_its_own or good.count().is_untouched
