"""What Prometheus reads of an agent, and whether the agent is well: /metrics, /healthz, /readyz name no workload.

/metrics/workloads does.

Everything is read when it is asked for, so that nothing is kept twice and an idle agent stays idle. The text is written
here and not by prometheus_client, which would take 2 MB more of the agent's 60; that package reads it in the tests.
"""

from exeat.metrics.durations import Durations
from exeat.metrics.families import Registry
from exeat.metrics.readings import PlaneCounts, PolicyCounts, Readings, Source, Use, WorkloadCounts
from exeat.metrics.server import Health, Server, serve

__all__ = [
    "Durations",
    "Health",
    "PlaneCounts",
    "PolicyCounts",
    "Readings",
    "Registry",
    "Server",
    "Source",
    "Use",
    "WorkloadCounts",
    "serve",
]
