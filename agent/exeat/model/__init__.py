"""Frozen values that every other package speaks in: policies, names, networks, tables, verdicts.

Never does I/O, never reads a clock, imports nothing else of exeat.
"""
