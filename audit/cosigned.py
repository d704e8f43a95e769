"""What witnesses say of the logs: cosignatures on checkpoints, and the checkpoints that each log's owner kept of the others.

Steps (1) and (2) of the verification use it, and step (3) for what is not cosigned yet; see :mod:`audit.verify`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from audit.checkpoint import NOTE_BYTES_MAX, Checkpoint, parse_note, verify_checkpoint
from audit.cosignature import verify_cosignature
from audit.errors import VerificationError
from audit.ledger import Ledger, LogRejected
from audit.policy import Trust
from audit.signing import VerifierKey
from audit.witness import WITNESS_FOLDER


@dataclass(frozen=True)
class Sighting:
    """``witness`` cosigned this tree head of ``log``: as long as its word is taken, the log had these entries."""

    witness: str
    log: str
    checkpoint: Checkpoint


def cosigners(note: bytes, witnesses: Mapping[str, VerifierKey], *, log: str, file: str) -> frozenset[str]:
    """Who of the known witnesses cosigned a checkpoint.

    Raises:
        LogRejected: step 1: a line names a known witness and does not hold.
    """
    parsed = parse_note(note)
    found = set()
    for name, key in witnesses.items():
        try:
            verify_cosignature(parsed, key)
        except VerificationError as error:
            if error.code == "audit.not_cosigned":
                continue
            raise LogRejected(error.code, f"{file}: {error.message}", step=1, log=log, remedy=error.remedy) from None
        found.add(name)
    return frozenset(found)


def sightings(folder: Path, witness: str, trust: Trust) -> list[Sighting]:
    """What the owner of the log in ``folder`` kept of other logs whose keys are known.

    Raises:
        LogRejected: step 1: a kept checkpoint is not signed by its log, or not cosigned by this owner.
    """
    found = []
    for name, key in trust.keys.items():
        path = folder / WITNESS_FOLDER / name
        own = trust.keys.get(witness)
        if name == witness or own is None or not path.is_file():
            continue
        try:
            with path.open("rb") as file:
                data = file.read(NOTE_BYTES_MAX + 1)
            checkpoint = verify_checkpoint(data, key)
            verify_cosignature(parse_note(data), own)
        except VerificationError as error:
            reason = f"{WITNESS_FOLDER}/{name}: {error.message}"
            raise LogRejected(error.code, reason, step=1, log=witness, remedy=error.remedy) from None
        except OSError as error:
            reason = f"{path} cannot be read: {error.strerror}."
            raise LogRejected("audit.unreadable", reason, step=1, log=witness, unusable=True) from None
        found.append(Sighting(witness, name, checkpoint))
    return found


def check_sightings(
    seen: Iterable[Sighting],
    ledgers: Sequence[Ledger],
    missing: Callable[[str], None],
    vouched: Callable[[str, Checkpoint], bool] = lambda log, checkpoint: False,
) -> int:
    """Hold each log against what others cosigned of it; returns how many sightings were held against a log.

    A log that is shorter than what was cosigned may be an older copy: that is missing, not contradictory.

    Args:
        vouched: whether a log's own checkpoints say the same as one that was cosigned.  Where they do, its owner stands by those
            entries, and a file that has others was damaged: that is for step (3), which says where.

    Raises:
        LogRejected: step 2: the log does not have the entries that were cosigned.
    """
    held = 0
    by_name = {ledger.name: ledger for ledger in ledgers}
    for sighting in seen:
        ledger, checkpoint = by_name.get(sighting.log), sighting.checkpoint
        if ledger is None:
            continue
        held += 1
        if ledger.size < checkpoint.size:
            missing(
                f"{sighting.witness} cosigned {checkpoint.size} entries of {sighting.log}, which has {ledger.size} here: ask for a "
                "newer copy"
            )
        elif ledger.roots[checkpoint.size] != checkpoint.root and not vouched(sighting.log, checkpoint):
            reason = f"its first {checkpoint.size} entries are not those that {sighting.witness} cosigned"
            raise LogRejected("audit.forked", reason, step=2, log=sighting.log)
    return held


def uncovered(
    last: int, cosigned: Mapping[int, frozenset[str]], witnesses: Collection[str], quorum: int | None
) -> list[str] | int | None:
    """Whether the entries up to ``last`` (a sequence number) are cosigned by enough witnesses.

    Args:
        cosigned: who cosigned the checkpoint of each size.
        witnesses: whose cosignatures are expected where there is no quorum.
        quorum: how many witnesses are enough, whoever they are.

    Returns:
        None when they are; else the witnesses that lack, or with a quorum how many did.
    """
    names = frozenset().union(*(who for size, who in cosigned.items() if size > last))
    if quorum is not None:
        return None if len(names) >= quorum else len(names)
    lacking = sorted(set(witnesses) - names)
    return lacking or None
