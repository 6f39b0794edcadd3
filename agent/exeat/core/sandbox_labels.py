"""Which Sandbox a pod belongs to: SIG Apps' agent-sandbox (kubernetes-sigs/agent-sandbox), group agents.x-k8s.io.

Its controller (controllers/sandbox_controller.go, v1alpha1 to v1beta1) gives each pod the Sandbox's own name and the
label `agents.x-k8s.io/sandbox-name-hash`: FNV-1a over that name, 32 bits, as eight hexadecimal digits. The name itself
is in no label. Controllers of 2025 let a Sandbox adopt a pod of a warm pool, which kept its own name: there the hash
is another, and the Sandbox's name cannot be told from the pod.
"""

from exeat.model.identity import Pod

NAME_HASH = "agents.x-k8s.io/sandbox-name-hash"
_FNV_OFFSET, _FNV_PRIME = 0x811C9DC5, 0x01000193  # of FNV-1a, 32 bits


def sandbox_of(pod: Pod) -> str:
    """The Sandbox's name; empty if the pod is of none, or does not tell."""
    return pod.name if dict(pod.labels).get(NAME_HASH) == name_hash(pod.name) else ""


def name_hash(name: str) -> str:
    """As the label has it."""
    number = _FNV_OFFSET
    for byte in name.encode():
        number = (number ^ byte) * _FNV_PRIME & 0xFFFFFFFF
    return f"{number:08x}"
