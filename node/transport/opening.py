"""What both sides of a stream say it is for, and the comparison."""

from __future__ import annotations

from node.errors import PeerError
from protos import peer_pb2

PROTOCOL_VERSION = 2
TOKEN_BYTES = 16


def check_open(mine: peer_pb2.Open, theirs: peer_pb2.Open, *, peer: str) -> None:
    """Compare what both sides say the stream is for.

    Raises:
        PeerError: ``transport.protocol_version``, ``transport.party_mismatch`` (the name is not the certificate's),
            ``transport.wrong_step``, ``transport.bad_token``.
    """
    if theirs.protocol != PROTOCOL_VERSION:
        raise PeerError(
            "transport.protocol_version",
            f"{peer} speaks protocol version {theirs.protocol}; this node speaks {PROTOCOL_VERSION}.",
            remedy="Both nodes must speak the same protocol version: update the older one.",
        )
    if theirs.party != peer:
        raise PeerError(
            "transport.party_mismatch",
            f"The node that holds the certificate of {peer} gave another name.",
            remedy=f"Check the name in {peer}'s node.toml and exchange partner files again.",
        )
    if (theirs.job, theirs.step, theirs.round, theirs.attempt) != (mine.job, mine.step, mine.round, mine.attempt):
        raise PeerError(
            "transport.wrong_step",
            f"{peer} is at another step than this node ({mine.step}, round {mine.round}, attempt {mine.attempt}).",
            remedy="The coordinator starts the step again on both nodes.",
        )
    if len(theirs.session) != TOKEN_BYTES:
        raise PeerError("transport.bad_token", f"{peer} named its session by {len(theirs.session)} bytes, not {TOKEN_BYTES}.")
