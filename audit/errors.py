"""The errors of isthmus: whose fault it is, a stable code, the thing, the reason and the remedy.

The audit wing imports no other wing, so the hierarchy that all three share has its root here; ``node.errors`` and
``coordinator.errors`` re-export it.  ``code`` is stable and is all that ever leaves the machine: a peer or a coordinator
is told the code, never the text.
"""

from __future__ import annotations


class IsthmusError(Exception):
    """Base of every error that isthmus raises on purpose.

    Args:
        code: stable, dotted, lower case: ``"<area>.<what>"`` (for example ``"psi.repeated_element"``).
        message: what is wrong, naming the thing (file, column, key, peer) and the reason; never a secret or a data value.
        remedy: what the reader can do about it.
    """

    exit_status = 1

    def __init__(self, code: str, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip() + f" [{self.code}]"


class UsageError(IsthmusError):
    """The person at the keyboard, or a configuration file, asked for something that cannot be."""

    exit_status = 2


class PolicyError(IsthmusError):
    """The local policy, or the job specification, does not allow it."""


class PeerError(IsthmusError):
    """The other party broke the protocol: its message is malformed, out of order, oversized or untrue."""


class TransportError(IsthmusError):
    """The link failed: unreachable, cut, timed out, wrong certificate."""


class VerificationError(IsthmusError):
    """A signature, hash, receipt or log did not verify."""


class DataError(IsthmusError):
    """A data set or a file does not hold what was declared."""


class PeerAborted(TransportError):
    """The other party ended the step and told its code alone."""
