"""What a workload makes the verdicts' thread see does not swamp the control loop."""

import asyncio
import threading
import time

from exeat.agent.heeding import REST_S, Heeding

WORKLOAD, OTHER = 7, 8


def test_a_flood_of_one_workload_is_heeded_a_few_times_and_another_one_at_once() -> None:
    """Ten thousand denials a tenth of a second are no ten thousand looks at its processes."""
    calls: list[tuple[int, set[int], float]] = []
    came = {}

    async def flood() -> None:
        heeding = Heeding(lambda workload, whats: calls.append((workload, whats, time.monotonic())))

        def say() -> None:
            for number in range(20_000):
                heeding.say(WORKLOAD, number % 5)
            came[OTHER] = time.monotonic()
            heeding.say(OTHER, 1)

        began = time.monotonic()
        thread = threading.Thread(target=say)
        thread.start()
        await asyncio.sleep(4 * REST_S)
        await asyncio.to_thread(thread.join)
        await asyncio.sleep(3 * REST_S)
        came[WORKLOAD] = time.monotonic() - began

    asyncio.run(flood())
    of_flood = [whats for workload, whats, _ in calls if workload == WORKLOAD]
    assert 1 <= len(of_flood) <= 2 + came[WORKLOAD] / REST_S
    assert set.union(*of_flood) == {0, 1, 2, 3, 4}, "nothing that is different was passed over"
    assert [at - came[OTHER] < REST_S for workload, _, at in calls if workload == OTHER] == [True]


def test_what_comes_while_it_rests_is_heeded_afterwards() -> None:
    """The last word is never the lost one."""
    calls: list[set[int]] = []

    async def say() -> None:
        heeding = Heeding(lambda _, whats: calls.append(whats))
        heeding.say(WORKLOAD, 1)
        await asyncio.sleep(REST_S / 5)
        assert calls == [{1}]
        heeding.say(WORKLOAD, 2)
        heeding.say(WORKLOAD, 3)
        assert calls == [{1}]
        await asyncio.sleep(3 * REST_S)
        assert calls == [{1}, {2, 3}]
        heeding.say(WORKLOAD, 4)
        await asyncio.sleep(REST_S / 5)
        assert calls == [{1}, {2, 3}, {4}]

    asyncio.run(say())
