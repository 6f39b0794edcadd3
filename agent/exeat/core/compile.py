"""Compiles a policy to the kernel's tables, which give every judgement: connect, ClientHello, packet and `explain`.

Three steps, each finding one longest prefix: the address gives a set of ports (compile_networks), the port says who may
talk freely, or gives a set of names (compile_ports), and the name says by which rule and until when (compile_hosts).

Rules with hosts and without networks are *gated*: they open an address only once exeat's resolver resolved a name of
theirs to it. What it may resolve is a set of names too, number 0, which gives each name its set of ports; the kernel
then looks among these ports in place of a network's. A name in a ClientHello must be one resolved to that address.

Every table holds the union of all rules that apply, so the kernel never compares rules with each other.
"""

from itertools import count

from exeat.core.compile_hosts import NameSets
from exeat.core.compile_networks import compile_networks
from exeat.core.compile_ports import PortSets
from exeat.core.compile_rules import RankedRules, until_ns
from exeat.model.policy import OnUndeclared, Policy, Protocol
from exeat.model.tables import TableSet


def compile_policy(policy: Policy) -> TableSet:
    """Compile a policy, whatever its mode. Raises ValueError with a sentence if the tables cannot hold a rule."""
    rules = RankedRules.of(policy)
    ids = count(1)
    name_sets = NameSets(rules, ids)
    port_sets = PortSets(rules, name_sets, ids)
    networks = tuple(compile_networks(rules, port_sets))
    resolvable = tuple(name_sets.resolvable(port_sets.id_of_set))
    return TableSet(
        policy_name=policy.name,
        rule_names=tuple(rule.name for rule in policy.rules),
        mode=policy.mode,
        until=until_ns(policy.expires),
        allows_icmp=any(rule.protocol is Protocol.ICMP for rule in policy.rules),
        ids=next(ids),
        has_hosts=any(rule.hosts and not rule.cidrs for rule in policy.rules),
        networks=networks,
        ports=tuple(port_sets.entries),
        hosts=(*resolvable, *name_sets.entries),
        limits=policy.limits,
        quarantines_undeclared=policy.on_undeclared is OnUndeclared.QUARANTINE,
    )
