"""Puts one command into a cgroup of its own, without what would defeat its policy. Knows nothing of BPF or policies.

    with Launch.prepare(argv, invoking_identity(os.environ), on_end=forget) as launch:
        bind_policy(launch.cgroup_id)
        launch.start()
        status = launch.wait()

Processes of a run: the *supervisor* (the caller), its *guardian* (outlives it and cleans up), the *init* of the
command's PID namespace (dies with the supervisor and takes every process of the run along) and the *command*. What the
command left running is killed when it ends. Every failure is a LaunchError with the status to exit with: 126 for a
command that cannot be executed, 127 for one that is not there, 125 for everything else.
"""

from exeat.launch.cgroup import Leaf
from exeat.launch.identity import Identity, invoking_identity, named_identity
from exeat.launch.launch import Launch
from exeat.launch.runs import OnEnd, sweep

__all__ = ["Identity", "Launch", "Leaf", "OnEnd", "invoking_identity", "named_identity", "sweep"]
