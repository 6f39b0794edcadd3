"""Has what stands on the shelf enforced: the one way in which a change of policies reaches the kernel."""

import logging
import time
from collections.abc import Callable

from exeat.agent.host import Host
from exeat.agent.looks import Looks

_log = logging.getLogger("exeat")


class Application:
    """Belongs to the control loop. `applied` hears how long a change took."""

    def __init__(self, host: Host, looks: Looks, applied: Callable[[float], None]) -> None:
        self.host = host
        self._looks = looks
        self._applied = applied

    def apply(self, began: float) -> int:
        """Switches workloads and cuts what is no longer allowed; how many were switched. `began`: time.monotonic()."""
        host = self.host
        changed = host.settle_all()
        host.enforcer.cut(changed)
        self._looks.look_at_all(changed)
        self._applied(time.monotonic() - began)
        _log.info("policies changed: %d workloads switched; %s", len(changed), host.sentence())
        return len(changed)
