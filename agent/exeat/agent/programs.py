"""The programs in the kernel: loaded where there are none, taken over where there are, replaced, mended."""

import logging
from pathlib import Path

from exeat.agent.vitals import Story
from exeat.kernel.instance import Instance, instances_of_other_layouts, own_build, remove_layout
from exeat.kernel.programs import ENFORCING

_log = logging.getLogger("exeat")


class Programs:
    """Of the agent's one instance, attached at the root of all cgroups."""

    def __init__(self, instance: Instance, story: Story) -> None:
        self._instance = instance
        self._story = story

    def prepare(self, root: Path) -> None:
        """After this, programs are attached and everything of them is held. They may be older than this agent's."""
        build = self._instance.build()
        if build is None:
            self._instance.load(ENFORCING)
            self._instance.attach(root)
            build = own_build()
        self._instance.hold(ENFORCING)
        self._story.build = build

    def upgrade(self) -> None:
        """Brings this agent's programs under the links, if they are others; each by one exchange."""
        if self._story.build != own_build():
            _log.info("replacing programs %s by %s", self._story.build, own_build())
            self._instance.load(ENFORCING)
            self._instance.hold(ENFORCING)
            self._story.build = own_build()
        for layout in instances_of_other_layouts(self._instance.name):
            _log.info("removing the programs of another layout: %s", layout)
            remove_layout(layout)

    def mend(self) -> None:
        """Somebody may have removed pins: what is held enforces on, and is pinned again."""
        if missing := self._instance.mend():
            _log.error("pins were removed and are back: %s", ", ".join(missing))
            self._story.notes["pins"] = f"{len(missing)} pins were removed by somebody, and were put back"
