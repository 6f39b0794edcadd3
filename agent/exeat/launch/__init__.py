"""Puts one command into a cgroup of its own, without what would defeat its policy. Knows nothing of BPF or policies."""
