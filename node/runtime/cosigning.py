"""This node's log and its witnesses: every checkpoint is offered to the coordinator and to the partners it has jobs with, and
theirs are cosigned here.

Everything goes through the stream to the coordinator, which passes on what is not addressed to it.  It can hold a checkpoint or a
cosignature back, and the log then lacks a cosignature, which an auditor sees; it cannot alter one, for both are signed.  Nothing
waits here: a step is reported done whether its checkpoint is cosigned yet or not, and a later checkpoint's cosignature covers it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from audit.partner import Partner
from audit.record import LogWriter
from audit.witness import Refused, Witness, size_of
from node.errors import IsthmusError, VerificationError
from operations.logs import Line, fault
from protos import control_pb2

_log = logging.getLogger("isthmus.node.cosigning")
PROOF_HASHES_MAX = 64


class CosignedLog:
    """A log that offers each of its checkpoints to its witnesses (``node.runtime.journal.Log``), and cosigns theirs.

    Args:
        log: this node's log.
        witness: its memory of other logs.
        partners: whose checkpoints are cosigned, and who may cosign, by name.
        coordinator: the coordinator's name.
        report: sends a report to the coordinator if attached; never blocks.
        notify: prints one readable line for the operator.
    """

    def __init__(
        self,
        log: LogWriter,
        witness: Witness,
        *,
        partners: Mapping[str, Partner],
        coordinator: str,
        report: Callable[[control_pb2.Report], None],
        notify: Callable[[str], None],
    ) -> None:
        self._log_writer, self._witness, self._partners = log, witness, partners
        self._report, self._notify = report, notify
        self._witnesses = [coordinator]
        self._known: dict[str, int] = {}
        self._asked: dict[str, tuple[int, int]] = {}
        self._latest = ""
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        """Held from the look at the latest checkpoint until it is handed over: two threads must not overtake each other, for a
        witness that saw the newer one first would take the older one for a log that was rolled back."""
        self.refused: dict[str, Refused] = {}
        """Logs that did not continue what was cosigned: no step runs with their owners."""
        self.on_refused: Callable[[Refused], None] = lambda refused: None

    def append(self, kind: str, **fields: Any) -> int:
        """Write an entry; it is on disk when this returns."""
        return self._log_writer.append(kind, **fields)

    def checkpoint(self) -> str:
        """Sign the tree head and offer it to the witnesses."""
        with self._sending:
            note = self._log_writer.checkpoint()
            with self._lock:
                self._latest = note
            self._offer()
        return note

    def met(self, peer: str) -> None:
        """A job with this partner is known here: it is a witness from now on."""
        with self._lock:
            if peer in self._partners and peer not in self._witnesses:
                self._witnesses.append(peer)

    def offer(self) -> None:
        """Offer the latest checkpoint to every witness: after each new one, and after the stream to the coordinator was cut."""
        with self._sending:
            self._offer()

    def _offer(self) -> None:
        with self._lock:
            witnesses = list(self._witnesses)
        for name in witnesses:
            self._send(name)

    @property
    def settled(self) -> bool:
        """Whether every witness has answered for the latest checkpoint."""
        with self._lock:
            size = size_of(self._latest.encode()) if self._latest else 0
            return all(self._known.get(name, 0) >= size for name in self._witnesses)

    def _send(self, witness: str) -> None:
        """Hand the latest checkpoint over; ``_sending`` is held."""
        with self._lock:
            note = self._latest
            if not note:
                return
            size, old = size_of(note.encode()), self._known.get(witness, 0)
            if old > size:  # a log shorter than what was cosigned: let the witness say so, with both checkpoints
                old = 0
            self._asked[witness] = (old, size)
        proof = [value.hex() for value in self._log_writer.consistency(old, size)]
        body = control_pb2.Checkpoint(log=self._log_writer.name, witness=witness, note=note, old_size=old, proof=proof)
        self._report(control_pb2.Report(checkpoint=body))

    # -- as the one cosigned
    def cosigned(self, answer: control_pb2.Cosignature) -> None:
        """A witness answered.

        Raises:
            VerificationError: ``witness.refused`` when it refused, ``witness.unknown``; those of ``LogWriter.add_cosignature``.
        """
        partner = self._partners.get(answer.witness)
        if partner is None or answer.log != self._log_writer.name:
            raise VerificationError("witness.unknown", "A cosignature came from no partner of this node, or for another log.")
        if answer.code:
            raise VerificationError(
                "witness.refused",
                f"{answer.witness} refuses to cosign this node's log [{answer.code}].",
                remedy="Was the state folder restored from an older copy, or is a second node running on it? "
                f"{answer.witness}'s operators see both checkpoints.",
            )
        if answer.line:
            self._log_writer.add_cosignature(answer.size, answer.line + "\n", partner.log_key)
        with self._lock:
            self._known[answer.witness] = answer.size
        if answer.line:
            return
        with self._sending:
            with self._lock:
                size = size_of(self._latest.encode()) if self._latest else 0
                again = self._asked.get(answer.witness) != (answer.size, size)
            # The proof began elsewhere: once more from where it should, but never the same question twice.
            if again:
                self._send(answer.witness)

    # -- as the witness
    def cosign(self, offered: control_pb2.Checkpoint) -> None:
        """Cosign a partner's checkpoint, or refuse it: the answer goes back by its code alone."""
        partner = self._partners.get(offered.log)
        answer = control_pb2.Cosignature(log=offered.log, witness=self._log_writer.name)
        if partner is None or offered.witness != self._log_writer.name:
            _log.warning("a checkpoint of %r came for %r: not of a partner, or not for this node", offered.log, offered.witness)
            return
        try:
            if len(offered.proof) > PROOF_HASHES_MAX or any(len(value) != 64 for value in offered.proof):
                raise VerificationError("audit.bad_checkpoint", f"The consistency proof of {offered.log} has not its form.")
            found = self._witness.cosign(
                offered.note.encode(),
                key=partner.log_key,
                old_size=offered.old_size,
                proof=[bytes.fromhex(value) for value in offered.proof],
            )
            answer.size, answer.line = found.size, found.line.rstrip("\n")
        except Refused as refused:
            answer.code = refused.code
            self._refuse(refused)
        except (IsthmusError, ValueError) as error:
            answer.code = error.code if isinstance(error, IsthmusError) else "audit.bad_checkpoint"
            self._notify(Line(f"error: a checkpoint of {offered.log} was not cosigned: {error}", code=answer.code))
        self._report(control_pb2.Report(cosignature=answer))

    def _refuse(self, refused: Refused) -> None:
        first = refused.of not in self.refused
        self.refused[refused.of] = refused
        self._notify(fault(refused, peer=refused.of))
        if first:
            self._log_writer.append("refusal", **refused.fields())
        self.on_refused(refused)

    def check_trusted(self, *names: str) -> None:
        """Raises the :class:`audit.witness.Refused` of the first of these participants whose log was refused."""
        for name in names:
            if name in self.refused:
                raise self.refused[name]
