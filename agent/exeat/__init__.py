"""exeat decides which network destinations a workload may reach, and has the Linux kernel enforce it."""
