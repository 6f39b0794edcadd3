"""A table set as it is at one moment, for ever: the kernel's clock cannot be set, and need not be."""

from dataclasses import replace

from exeat.model.tables import NEVER, HostSlot, TableSet

_OVER = 1  # a wall-clock time that has long passed


def stopped_at(table_set: TableSet, wall_ns: int) -> TableSet:
    """What has ended at that moment has ended, and nothing else ever will. Which rule is named stays the same."""

    def until(end: int) -> int:
        return end if end == 0 else NEVER if end > wall_ns else _OVER

    def slot(one: HostSlot) -> HostSlot:
        return one._replace(until=until(one.until), ech_until=until(one.ech_until))

    return replace(
        table_set,
        until=until(table_set.until),
        ports=tuple(
            replace(
                entry,
                open_until=until(entry.open_until),
                named_until=until(entry.named_until),
                named_ech_until=until(entry.named_ech_until),
            )
            for entry in table_set.ports
        ),
        hosts=tuple(entry._replace(one=slot(entry.one), many=slot(entry.many)) for entry in table_set.hosts),
    )
