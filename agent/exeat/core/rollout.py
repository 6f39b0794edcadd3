"""Which workloads a policy's `rollout` chooses: always the same ones, and more of them as the share grows."""

import hashlib

_HASH_BITS = 64


def is_chosen(workload: str, policy: str, percent: int) -> bool:
    """Whether a workload is among the share. Whoever is in at 10 percent is in at 50; each policy chooses anew."""
    digest = hashlib.sha256(f"{policy}\0{workload}".encode(errors="surrogateescape")).digest()
    place = int.from_bytes(digest[: _HASH_BITS // 8], "big") * 100 >> _HASH_BITS  # 0 to 99, each for as many
    return place < percent
