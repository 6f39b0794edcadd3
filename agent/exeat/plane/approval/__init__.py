"""Denials made into a rule: as narrow as what was denied, shown before it is applied, and written down."""
