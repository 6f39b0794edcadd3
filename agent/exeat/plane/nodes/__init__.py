"""The fleet as it is, by its own word: nodes, their workloads, and what was asked of them."""
