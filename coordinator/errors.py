"""Errors of the coordinator wing: the shared hierarchy of ``audit.errors`` under the name this wing uses."""

from audit.errors import (
    DataError,
    IsthmusError,
    PeerAborted,
    PeerError,
    PolicyError,
    TransportError,
    UsageError,
    VerificationError,
)

__all__ = [
    "DataError",
    "IsthmusError",
    "PeerAborted",
    "PeerError",
    "PolicyError",
    "TransportError",
    "UsageError",
    "VerificationError",
]
