"""Pinned TLS while certificates change: two of one name, credentials that follow, streams that end with their certificate."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime

import grpc
import pytest

from audit.certificates import new_certificate
from protos import tls
from protos.callers import Callers

Pair = tuple[bytes, bytes]


def pair(name: str) -> Pair:
    """Key and certificate, as ``init`` makes them."""
    return new_certificate(name, datetime.now(UTC))


class World:
    """A server whose certificate, and whose pinned ones, a test changes; it says who calls until the call is cut."""

    def __init__(self, shown: Pair, pinned: dict[str, bytes]) -> None:
        self.shown, self.pinned = shown, pinned
        self.callers = Callers(self.pinned)
        handler = grpc.unary_stream_rpc_method_handler(self._answer)
        self.server = grpc.server(
            futures.ThreadPoolExecutor(8),
            handlers=[grpc.method_handlers_generic_handler("test", {"WhoAmI": handler})],
            options=tls.SERVER_OPTIONS,
        )
        credentials = tls.renewable_credentials(lambda: (*self.shown, b"".join(self.pinned.values())))
        self.address = f"127.0.0.1:{tls.bind(self.server, '127.0.0.1:0', credentials)}"
        self.server.start()

    def _answer(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        try:
            yield self.callers.enter(context).encode()
        except tls.TlsError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.code)
        ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        if request == b"stay" and context.add_callback(lambda: ended.put(None)):
            ended.get(timeout=20)

    def dial(self, own: Pair, trusted: bytes) -> grpc.Channel:
        return tls.channel(
            self.address,
            server_name="bank",
            server_certificate_pem=trusted,
            key_pem=own[0],
            certificate_pem=own[1],
            options=[("grpc.use_local_subchannel_pool", 1)],
        )

    def says(self, own: Pair, trusted: bytes) -> str:
        """The name the server has for the caller, or the status that ends the call."""
        with self.dial(own, trusted) as channel:
            try:
                return "".join(part.decode() for part in channel.unary_stream("/test/WhoAmI")(b"", timeout=5))
            except grpc.RpcError as error:
                return str(error.code().name)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(pair("bank"), {"shop": pair("shop")[1]})
    yield made
    made.server.stop(None).wait()


def test_either_of_two_certificates_of_one_name_is_enough_on_both_sides(world: World) -> None:
    """They have the same subject and issuer: nobody must take one for the issuer of the other."""
    old, new, server = pair("shop"), pair("shop"), pair("bank")
    world.shown = server
    for pinned in (old[1] + new[1], new[1] + old[1]):
        world.pinned["shop"] = pinned
        for own in (old, new):
            for trusted in (server[1] + pair("bank")[1], pair("bank")[1] + server[1]):
                assert world.says(own, trusted) == "shop"
    assert world.says(pair("shop"), server[1]) == "UNAVAILABLE", "another one of that name is nobody"
    assert world.says(old, pair("bank")[1]) == "UNAVAILABLE"


def test_handshakes_follow_what_is_shown_and_pinned_and_connections_stay(world: World) -> None:
    old, new = pair("shop"), pair("shop")
    world.pinned["shop"] = old[1]
    first, second = world.shown, pair("bank")
    with world.dial(old, first[1]) as channel:
        ask = channel.unary_stream("/test/WhoAmI")
        assert list(ask(b"", timeout=5)) == [b"shop"]
        world.shown, world.pinned["shop"] = second, old[1] + new[1]
        assert list(ask(b"", timeout=5)) == [b"shop"], "a connection that stands is not touched"
        assert world.says(new, second[1]) == world.says(old, second[1]) == "shop"
        assert world.says(old, first[1]) == "UNAVAILABLE", "the server shows its former certificate no more"
        world.pinned["shop"] = new[1]
        with pytest.raises(grpc.RpcError) as refused:
            list(ask(b"", timeout=5))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED, "on whatever connection"
    assert world.says(old, second[1]) == "UNAVAILABLE"
    assert world.says(new, second[1]) == "shop"


def test_nobody_pinned_any_more_lets_nobody_in(world: World) -> None:
    own = pair("shop")
    world.pinned["shop"] = own[1]
    assert world.says(own, world.shown[1]) == "shop"
    world.pinned["shop"] = b""
    assert world.says(own, world.shown[1]) == "UNAUTHENTICATED"


def test_a_stream_ends_with_its_certificate(world: World) -> None:
    old, new = pair("shop"), pair("shop")
    world.pinned["shop"] = old[1] + new[1]
    with world.dial(old, world.shown[1]) as former, world.dial(new, world.shown[1]) as present:
        streams = [channel.unary_stream("/test/WhoAmI")(b"stay", timeout=20) for channel in (former, present)]
        assert [next(stream) for stream in streams] == [b"shop", b"shop"]
        assert world.callers.recheck() == []
        world.pinned["shop"] = new[1]
        assert world.callers.recheck() == ["shop"]
        with pytest.raises(grpc.RpcError) as cut:
            next(streams[0])
        assert cut.value.code() is grpc.StatusCode.CANCELLED
        assert streams[1].is_active()
        streams[1].cancel()


def test_certificates_that_follow_each_other() -> None:
    one, two = pair("bank")[1], pair("shop")[1]
    assert tls.to_ders(one + b"\n" + two) == (tls.to_der(one), tls.to_der(two))
    assert tls.to_ders(b"") == ()
    for bad in (one + b"more", b"more" + one, one[:-9] + two, b"more"):
        with pytest.raises(tls.TlsError, match="not one PEM"):
            tls.to_ders(bad)
    for bad in (b"", one + two):
        with pytest.raises(tls.TlsError, match="not one PEM"):
            tls.to_der(bad)
    assert tls.name_of(tls.to_der(two), {"both": one + two, "second": two}) == "both"
    assert tls.name_of(tls.to_der(two), {"bank": one, "nobody": b""}) is None
