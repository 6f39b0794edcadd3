"""Compiles a policy to the kernel's tables, which give every judgement: connect, ClientHello, packet and `explain`.

Three steps, each finding one longest prefix: the address gives a set of ports (compile_networks), the port says who may
talk freely, or gives a set of names (compile_ports), and the name says by which rule and until when (compile_hosts).
Every table holds the union of all rules that apply, so the kernel never compares rules with each other.
"""

from itertools import count

from exeat.core.compile_hosts import NameSets
from exeat.core.compile_networks import compile_networks
from exeat.core.compile_ports import PortSets
from exeat.core.compile_rules import RankedRules, until_ns
from exeat.model.policy import Policy, Protocol
from exeat.model.tables import TableSet


def compile_policy(policy: Policy) -> TableSet:
    """Compile a policy, whatever its mode. Raises ValueError with a sentence if the tables cannot hold a rule."""
    rules = RankedRules.of(policy)
    ids = count(1)
    name_sets = NameSets(rules, ids)
    port_sets = PortSets(rules, name_sets, ids)
    networks = tuple(compile_networks(rules, port_sets))
    return TableSet(
        policy_name=policy.name,
        rule_names=tuple(rule.name for rule in policy.rules),
        mode=policy.mode,
        until=until_ns(policy.expires),
        allows_icmp=any(rule.protocol is Protocol.ICMP for rule in policy.rules),
        ids=next(ids),
        networks=networks,
        ports=tuple(port_sets.entries),
        hosts=tuple(name_sets.entries),
    )
