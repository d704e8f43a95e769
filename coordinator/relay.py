"""The relay's gRPC service: joins the two nodes of a running attempt that cannot reach each other, and passes their records on.

Same port, same mutual TLS, pinned nodes alone.  A stream's first message names its room; the caller must be a party of that job,
the named peer the other one, and the attempt the one that runs.  What follows is sealed between the nodes: it is bounded, passed on
and forgotten; nothing of it is parsed, logged or stored.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping

import grpc

from audit.errors import IsthmusError
from coordinator.errors import PeerError
from coordinator.rooms import Attempt, RelayLimits, Room, Rooms
from coordinator.service import INTERNAL, abort, enter
from protos import relay_pb2, relay_pb2_grpc
from protos.callers import Callers

_log = logging.getLogger("isthmus.coordinator")

RELAY_VERSION = 1
_JOB = re.compile(r"[0-9a-f]{64}")

Running = Callable[[str], tuple[tuple[str, str], tuple[str, int, int]] | None]
"""For a job: its two parties, and step, round and attempt that run; None when none runs."""


class RelayService(relay_pb2_grpc.RelayServicer):
    """``Relay.Exchange``.

    Args:
        pinned: the data parties' certificates (PEM, one or more) by name, as they are at each look.
        running: what runs of a job.
        enabled: whether the coordinator's operators let nodes use the relay.
    """

    def __init__(
        self, *, pinned: Mapping[str, bytes], running: Running, limits: RelayLimits | None = None, enabled: bool = True
    ) -> None:
        self._running, self._enabled = running, enabled
        self.callers = Callers(pinned)
        self.rooms = Rooms(limits or RelayLimits(), runs=self._runs)

    def Exchange(self, request_iterator: Iterator[relay_pb2.Sealed], context: grpc.ServicerContext) -> Iterator[relay_pb2.Sealed]:
        """One node's stream.  A refusal, or the room's failure, ends it with a status whose details are the code alone."""
        try:
            party = enter(context, self.callers)
            with self.rooms.stream(party):
                room = self._enter(party, request_iterator, context)
                for record in room.records(party):
                    yield relay_pb2.Sealed(record=record)
        except IsthmusError as error:
            _log.info("a relayed stream ended: %s", error)
            abort(context, error, error.code)
        except Exception:  # noqa: BLE001 - gRPC would tell the node the exception's text
            _log.exception("a relayed stream ended with a fault of isthmus")
            context.abort(grpc.StatusCode.INTERNAL, INTERNAL)

    def _enter(self, party: str, requests: Iterator[relay_pb2.Sealed], context: grpc.ServicerContext) -> Room:
        if not self._enabled:
            raise PeerError("relay.disabled", f"{party} asked for the relay, which is switched off.")
        named = self._first(party, requests, context)
        attempt: Attempt = (named.job, named.step, named.round, named.attempt)
        running = self._running(named.job) if _JOB.fullmatch(named.job) else None
        # One code for all: a node learns nothing of jobs that are not its own.
        if running is None or running[1] != attempt[1:] or sorted(running[0]) != sorted((party, named.peer)):
            raise PeerError(
                "relay.not_running", f"{party} asked for a room of an attempt that does not run between it and its peer."
            )
        room = self.rooms.enter(attempt, party, running[0], context.cancel)
        if not context.add_callback(lambda: room.left(party)):
            room.left(party)
        threading.Thread(target=_read, args=(room, party, requests), name=f"relay-{party}", daemon=True).start()
        return room

    def _first(self, party: str, requests: Iterator[relay_pb2.Sealed], context: grpc.ServicerContext) -> relay_pb2.Room:
        timer = threading.Timer(self.rooms.limits.open, context.cancel)
        timer.start()
        try:
            first = next(requests, None)
        except grpc.RpcError:
            first = None
        finally:
            timer.cancel()
        if first is None or first.WhichOneof("body") != "room":
            raise PeerError("relay.no_room", f"{party} did not say whom it wants to meet for what.")
        if first.room.protocol != RELAY_VERSION:
            raise PeerError("relay.protocol_version", f"{party} speaks relay protocol {first.room.protocol}, not {RELAY_VERSION}.")
        return first.room

    def _runs(self, attempt: Attempt) -> bool:
        running = self._running(attempt[0])
        return running is not None and running[1] == attempt[1:]


def _read(room: Room, party: str, requests: Iterator[relay_pb2.Sealed]) -> None:
    """Runs in a thread of its own: what one node sends, until it stops, breaks a rule, or the room ends."""
    try:
        for sealed in requests:
            if sealed.WhichOneof("body") != "record":
                room.fail("relay.malformed")
                return
            room.put(party, sealed.record)
        room.finish(party)
    except IsthmusError as error:
        _log.info("a relayed stream ended: %s", error)
    except grpc.RpcError:
        room.left(party)  # the stream was cut
    except Exception:  # noqa: BLE001 - the last resort of this thread
        _log.exception("a relayed stream of %s ended with a fault of isthmus", party)
        room.fail(INTERNAL)
