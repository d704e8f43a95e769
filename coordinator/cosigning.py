"""The coordinator's log and its witnesses, the nodes' logs and theirs.

The coordinator cosigns the checkpoints that are addressed to it (:mod:`audit.witness`), passes those that two parties of a job
address to each other on, and offers its own to every attached node.  It sees tree heads and hashes of trees over log entries, and
nothing of the entries.  It cannot alter what it passes on; what it holds back is missing from the nodes' logs, where an auditor
sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from audit.errors import IsthmusError
from audit.partner import Partner
from audit.record import LogWriter
from audit.witness import Refused, Witness, size_of
from coordinator.errors import PeerError
from coordinator.jobs import Job
from protos import control_pb2

_log = logging.getLogger("isthmus.coordinator")


class Attached(Protocol):
    """What is needed of a node's stream."""

    def send(self, *, checkpoint: control_pb2.Checkpoint | None = None, cosignature: control_pb2.Cosignature | None = None) -> None:
        """Queue a directive."""


class Cosigning:
    """Not thread-safe: the runner's lock guards it.

    Args:
        attached: the streams of attached nodes by name, as they are at each moment.
        refused: told when a node's log was refused, once a node.
    """

    def __init__(
        self,
        log: LogWriter,
        witness: Witness,
        *,
        partners: Mapping[str, Partner],
        attached: Mapping[str, Attached],
        refused: Callable[[Refused], None],
    ) -> None:
        self._log, self._witness, self._partners, self._attached = log, witness, partners, attached
        self._on_refused = refused
        self._known: dict[str, int] = {}
        self._asked: dict[str, tuple[int, int]] = {}
        self._pairs: set[frozenset[str]] = set()
        self._unanswered: dict[tuple[str, str], tuple[int, control_pb2.Checkpoint]] = {}
        """The last checkpoint of a node's log for its partner, until that answered: it may be away, and asks for nothing itself."""
        self._latest = ""
        self.refused: dict[str, Refused] = {}
        """Nodes whose logs did not continue what was cosigned: none of their jobs goes on."""

    def met(self, job: Job) -> None:
        """The two parties of a job may exchange checkpoints."""
        self._pairs.add(frozenset(job.parties))

    def checkpoint(self) -> None:
        """Sign the coordinator's tree head and offer it to every attached node."""
        self._latest = self._log.checkpoint()
        for party in self._attached:
            self.offer(party)

    def offer(self, party: str) -> None:
        """Offer the latest checkpoint to a node that is attached."""
        if not self._latest or party not in self._attached:
            return
        size, old = size_of(self._latest.encode()), self._known.get(party, 0)
        if old > size:
            old = 0
        self._asked[party] = (old, size)
        proof = [value.hex() for value in self._log.consistency(old, size)]
        body = control_pb2.Checkpoint(log=self._log.name, witness=party, note=self._latest, old_size=old, proof=proof)
        self._attached[party].send(checkpoint=body)

    def attached(self, party: str) -> None:
        """A node attached: it is offered the latest checkpoint, and those of its partners that it has not answered."""
        self.offer(party)
        for (_, witness), (_, body) in list(self._unanswered.items()):
            if witness == party and party in self._attached:
                self._attached[party].send(checkpoint=body)

    def offered(self, party: str, body: control_pb2.Checkpoint) -> None:
        """A node's checkpoint arrived: cosign it, or pass it on to the partner it is addressed to.

        Raises:
            PeerError: ``control.unexpected``: it is not of that node's own log.  VerificationError: it is no checkpoint.
        """
        if body.log != party:
            raise PeerError("control.unexpected", f"{party} sent a checkpoint of another log than its own.")
        if body.witness != self._log.name:
            if frozenset((party, body.witness)) in self._pairs:
                self._unanswered[party, body.witness] = (size_of(body.note.encode()), body)
                if body.witness in self._attached:
                    self._attached[body.witness].send(checkpoint=body)
            return
        answer = control_pb2.Cosignature(log=party, witness=self._log.name)
        try:
            found = self._witness.cosign(
                body.note.encode(),
                key=self._partners[party].log_key,
                old_size=body.old_size,
                proof=[bytes.fromhex(value) for value in body.proof],
            )
            answer.size, answer.line = found.size, found.line.rstrip("\n")
        except IsthmusError as error:
            answer.code = error.code
            _log.error("a checkpoint of %s was not cosigned: %s", party, error, extra={"peer": party, "code": error.code})
            if isinstance(error, Refused):
                self._refuse(error)
        if party in self._attached:
            self._attached[party].send(cosignature=answer)

    def _refuse(self, refused: Refused) -> None:
        if refused.of in self.refused:
            return
        self.refused[refused.of] = refused
        self._log.append("refusal", **refused.fields())
        self._on_refused(refused)

    def answered(self, party: str, body: control_pb2.Cosignature) -> None:
        """A node answered as a witness: of the coordinator's own log, or of its partner's.

        Raises:
            PeerError: ``control.unexpected``: it answered in another's name.  VerificationError: its cosignature does not verify.
        """
        if body.witness != party:
            raise PeerError("control.unexpected", f"{party} answered in another witness's name.")
        if body.log != self._log.name:
            asked = self._unanswered.get((body.log, party))
            if asked is not None and (body.code or body.size >= asked[0]):
                del self._unanswered[body.log, party]
            if body.log in self._attached and frozenset((party, body.log)) in self._pairs:
                self._attached[body.log].send(cosignature=body)
            return
        if body.code:
            _log.error(
                "%s refuses to cosign this log [%s]: was the state folder restored from a copy?",
                party,
                body.code,
                extra={"peer": party, "code": body.code},
            )
            return
        if body.line:
            self._log.add_cosignature(body.size, body.line + "\n", self._partners[party].log_key)
        self._known[party] = body.size
        # The proof began elsewhere: once more from where it should, but never the same question twice.
        if not body.line and self._latest and self._asked.get(party) != (body.size, size_of(self._latest.encode())):
            self.offer(party)
