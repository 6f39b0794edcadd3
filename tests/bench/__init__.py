"""What exeat costs: each number is a ratio to the same work without it, on the same machine, interleaved in time.

    PYTHONPATH=tests python -m bench.main [--only NAME] [--rounds N] [--json FILE] [--short]

A machine's speed drifts by more than exeat costs, so nothing is measured twice in a row: every round does the same
short slice of work in each setting, in changing order, and only slices of the same round are compared. Medians and
quartiles are over rounds. The bars are the design's; a bar that is missed is printed as "over", and is no failure.
"""
