"""What is known of a policy without reading its text again: lists and assignment ask it of every policy at once."""

import json
from dataclasses import asdict, dataclass

from exeat.model.policy import Policy, Subject

_SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Facts:
    """Kept beside a document."""

    nodes: tuple[tuple[str, str], ...]  # labels of the nodes that it is for; none: every node
    owner: str
    mode: str
    expires_ns: int  # 0: never
    rules: int
    size: int  # of the text, in bytes

    @property
    def subject(self) -> Subject:
        """As far as a node is concerned."""
        return Subject(nodes=self.nodes)


def facts_of(policy: Policy, size: int) -> Facts:
    """Of a policy that was just read."""
    expires_ns = round(policy.expires.timestamp()) * _SECOND if policy.expires else 0
    return Facts(policy.subject.nodes, policy.owner, policy.mode.value, expires_ns, len(policy.rules), size)


def facts_text(facts: Facts) -> str:
    """As the store keeps them."""
    return json.dumps(asdict(facts))


def parse_facts(text: str) -> Facts:
    """The same the other way round."""
    read = json.loads(text)
    return Facts(**(read | {"nodes": tuple((name, value) for name, value in read["nodes"])}))
