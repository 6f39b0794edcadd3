"""The agent: one daemon that keeps every workload of a host under its policies. Composition root: `daemon`."""
