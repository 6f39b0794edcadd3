"""What a plane is told of the workloads: all of them once, then what has changed."""

from collections.abc import Mapping

from exeat.v1 import plane_pb2 as pb

_MESSAGE_MAX = 2 << 20  # what a plane must take is 4 MiB
_ENTRIES_MAX = 10_000  # and 20,000 parts


class WorkloadTeller:
    """One stream's. What does not fit into one message comes with the next."""

    def __init__(self) -> None:
        self._told: dict[str, pb.WorkloadState] | None = None

    def news(self, states: Mapping[str, pb.WorkloadState]) -> pb.WorkloadNews | None:
        """What is to be said; None: nothing."""
        news = pb.WorkloadNews(is_all=self._told is None)
        told = self._told = {} if self._told is None else self._told
        for name in [name for name in told if name not in states][:_ENTRIES_MAX]:
            del told[name]
            news.gone.append(name)
        size = sum(map(len, news.gone))
        for name, state in states.items():
            known = told.get(name)
            if known is state or known == state:
                continue
            size += state.ByteSize()
            count = len(news.workloads) + len(news.gone)
            if count >= _ENTRIES_MAX or (size > _MESSAGE_MAX and news.workloads):
                break
            news.workloads.append(state)
            told[name] = state
        return news if news.is_all or news.workloads or news.gone else None
