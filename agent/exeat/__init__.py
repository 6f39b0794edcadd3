"""exeat decides which network destinations a workload may reach, and has the Linux kernel enforce it."""

__version__ = "0.1.0"
