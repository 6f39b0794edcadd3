"""The programs in the kernel: loaded where there are none, taken over where there are, replaced, mended."""

import logging
from pathlib import Path

from exeat.agent.vitals import Story
from exeat.kernel.clock import clock_offset_ns
from exeat.kernel.frames import FrameGuard
from exeat.kernel.guest_hooks import GuestHooks
from exeat.kernel.instance import Instance, instances_of_other_layouts, own_build, remove_layout
from exeat.kernel.programs import ENFORCING

_log = logging.getLogger("exeat")


class Programs:
    """Of the agent's one instance, attached at the root of all cgroups."""

    def __init__(self, instance: Instance, story: Story) -> None:
        self._instance = instance
        self.guests = GuestHooks(instance)  # loaded only where there are guests
        self.frames = FrameGuard(instance)
        self._story = story
        self._is_upgrading = False

    def prepare(self, root: Path) -> None:
        """After this, programs are attached and everything of them is held. They may be older than this agent's."""
        if self._instance.has_lost_maps():
            self._note("pins", "maps had lost their pins: their programs enforced until new ones knew all workloads")
            self._instance.set_aside()
        elif self._was_here() and not self._instance.is_attached():
            self._note("pins", "the programs had gone from the kernel: nothing was enforced until this agent started")
        build = self._instance.build()
        if build is None or not self._instance.is_whole(ENFORCING):
            self._instance.load(ENFORCING)
            self._instance.attach(root)
            build = own_build()
        self._instance.hold(ENFORCING)
        self.frames.hold()
        self.frames.renew()  # an agent may have been killed before it had
        if self.guests.is_loaded:
            self.guests.hold()
        self._story.build = build

    def upgrade(self) -> None:
        """Brings this agent's programs under the links, if they are others; each by one exchange."""
        self._is_upgrading = True
        try:
            if self._story.build != own_build():
                _log.info("replacing programs %s by %s", self._story.build, own_build())
                self._instance.load(ENFORCING)
                self._instance.hold(ENFORCING)
                self.frames.renew()
                self._story.build = own_build()
            if self.guests.is_loaded:
                self.guests.load()  # nothing, where they are of this build
        finally:
            self._is_upgrading = False

    def retire(self, is_complete: bool) -> None:
        """Removes the programs of another layout, as soon as these judge every workload."""
        layouts = instances_of_other_layouts(self._instance.name)
        self._story.notes.pop("layouts", None)
        if layouts and not is_complete:
            which = ", ".join(map(str, layouts))
            self._story.notes["layouts"] = f"{which}: older programs enforce on beside these, until all is well"
            return
        for layout in layouts:
            _log.info("removing the programs of another layout: %s", layout)
            remove_layout(layout)

    def mend(self) -> None:
        """Somebody may have removed pins: what is held enforces on, and is pinned again."""
        if self._is_upgrading:
            return
        if missing := self._instance.mend(self._story.build):
            _log.error("pins were removed and are back: %s", ", ".join(missing))
            self._story.notes["pins"] = f"{len(missing)} pins were removed by somebody, and were put back"

    def _was_here(self) -> bool:
        """Whether an agent was in control since the kernel was started, and its programs should be."""
        booted_ns = clock_offset_ns()
        return self._story.last_seen_ns > booted_ns and not instances_of_other_layouts(self._instance.name)

    def _note(self, word: str, sentence: str) -> None:
        _log.error("%s", sentence)
        self._story.notes[word] = sentence
