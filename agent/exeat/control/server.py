"""The agent's end of the local API: gRPC behind the door, in the agent's own asyncio loop."""

import socket
from dataclasses import dataclass
from pathlib import Path

import grpc

from exeat.control.calls import STREAMS_MAX, UNDER_WAY_MAX, Calls
from exeat.control.door import Door
from exeat.control.operations import Operations
from exeat.control.place import Place, take_place
from exeat.errors import SocketError

MESSAGE_MAX = 17 << 20  # a policy's text may have 16 MiB
_OPTIONS = (
    ("grpc.max_receive_message_length", MESSAGE_MAX),
    ("grpc.max_concurrent_streams", STREAMS_MAX),  # of one connection
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class Server:
    """What `serve` began."""

    _grpc: grpc.aio.Server
    _calls: Calls
    _door: Door

    async def stop(self, grace_s: float) -> None:
        """Takes the socket away at once, lets what is under way end within the grace, then cuts it off."""
        self._door.stop_accepting()
        await self._grpc.stop(grace_s)
        await self._calls.finish(grace_s)
        await self._door.close()


async def serve(
    operations: Operations, socket_path: Path, group: str | None, listener: socket.socket | None = None
) -> Server:
    """Listens at the path, for root and the group's members; `listener`: a socket that systemd opened there.

    Keep what it returns: without it gRPC ends. Raises SocketError where it cannot listen, or where another agent does.
    """
    place = take_place(socket_path, group, listener)
    door = Door(place)
    server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=UNDER_WAY_MAX + STREAMS_MAX)
    calls = Calls(operations, door)
    server.add_generic_rpc_handlers((calls.table(),))
    await _start(server, place)
    await door.open()
    return Server(server, calls, door)


async def _start(server: grpc.aio.Server, place: Place) -> None:
    try:
        server.add_insecure_port(f"unix:{place.inner}")
    except RuntimeError as error:
        place.stop_listening()
        place.clear()
        raise SocketError(f"gRPC cannot listen on {place.inner}: {error}") from error
    await server.start()
