"""``isthmus-audit prove`` and ``check-proof``: one entry of a log, for somebody who is not to see the rest of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from audit.checkpoint import log_of
from audit.console import emit, visible
from audit.cosignature import cosigned_at
from audit.entries import FRAME_FIELDS, LINE_BYTES_MAX
from audit.errors import UsageError, VerificationError
from audit.policy import Trust, load_trust
from audit.proofs import PROOF_BYTES_MAX, PROOF_SUFFIX, Proof, ProofUnusable, ProvenEntry, check_proof, parse_proof, prove
from audit.record import write_atomic
from audit.signing import VerifierKey
from audit.sources import locate

PATH = click.Path(path_type=Path)


@click.command("prove")
@click.argument("log", type=PATH, metavar="LOG")
@click.argument("seq", type=click.IntRange(min=0), metavar="SEQ")
@click.option(
    "--output", type=PATH, metavar="FILE", help=f"Write the proof to FILE (by custom *{PROOF_SUFFIX}), not to the screen."
)
def prove_command(log: Path, seq: int, output: Path | None) -> int:
    """Make a proof that entry SEQ stands in LOG.

    LOG is a log folder, its log.jsonl, or the state or node folder above it; SEQ is the field "seq" of the entry.  The proof (C2SP
    tlog-proof) holds that entry, a few hashes and the log's latest signed checkpoint; nothing else of the log.  Whoever has the
    log's key can check it with check-proof.

    \b
    Exit codes: 0 made; 1 the log is not the one that was signed; 3 unusable input.

    \b
    Example:
      isthmus-audit prove bank/state/log 42 --output approval.tlog-proof
    """
    source = locate(log)
    proof = prove(source.path, seq).encode()
    if output is None:
        click.echo(proof.decode(), nl=False)
        return 0
    try:
        write_atomic(output, proof)
    except OSError as error:
        raise UsageError(
            "proof.unwritable", f"{output} cannot be written: {error.strerror}.", remedy="Choose another file for --output."
        ) from None
    click.echo(f"proof of entry {seq} of the log {source.name!r} written to {output}")
    return 0


@click.command("check-proof")
@click.argument("proof_file", type=PATH, metavar="PROOF")
@click.option(
    "--entry", "entry_file", type=PATH, metavar="FILE", help="The entry (its line of log.jsonl) instead of the one inside."
)
@click.option("--policy", type=PATH, metavar="FILE", help="TOML file that names the logs and their keys (as for verify).")
@click.option("--partner", "partners", type=PATH, multiple=True, metavar="FILE", help="Partner file of the log's owner; repeat.")
@click.option("--key", "key_text", metavar="KEY", help="The log's verifier key itself: isthmus.log/NAME+HASH+BASE64.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def check_proof_command(
    proof_file: Path, entry_file: Path | None, policy: Path | None, partners: tuple[Path, ...], key_text: str | None, as_json: bool
) -> int:
    """Check a proof of an entry, and show the entry.

    The log's key must come from its owner: in a policy file, a partner file, or as it is.  A proof checked under a key that came
    with it would prove nothing.  Cosignatures of witnesses whose keys are given too must hold, as many as the policy's quorum.

    \b
    Exit codes: 0 it holds; 1 it does not; 3 unusable input.

    \b
    Example:
      isthmus-audit check-proof approval.tlog-proof --partner bank.partner.json
    """
    proof = parse_proof(_read(proof_file, PROOF_BYTES_MAX))
    entry = None if entry_file is None else _read(entry_file, LINE_BYTES_MAX + 1).removesuffix(b"\n")
    trust = _trust(proof, policy, partners, key_text)
    name = log_of(proof.checkpoint.origin)
    witnesses = trust.witnesses(name).values()
    proven = check_proof(proof, key=trust.keys[name], witnesses=witnesses, quorum=trust.quorum or 0, entry=entry)
    emit(_proven_data(proof, proven), as_json=as_json, human=lambda console: _print(console, proof, proven))
    return 0


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(most + 1)
    except OSError as error:
        raise ProofUnusable(
            "proof.unreadable", f"{path} cannot be read: {error.strerror}.", remedy="Correct the path and the rights to the file."
        ) from None


def _trust(proof: Proof, policy: Path | None, partners: Sequence[Path], key_text: str | None) -> Trust:
    """Whose keys are trusted; the proof's log is among them."""
    trust = load_trust(policy, partners)
    keys = dict(trust.keys)
    if key_text is not None:
        try:
            given = VerifierKey.parse(key_text)
        except VerificationError as error:
            raise UsageError("proof.bad_key", f"--key: {error.message}", remedy=error.remedy) from None
        if keys.setdefault(log_of(given.name), given) != given:
            raise UsageError(
                "proof.two_keys",
                f"--key gives another key for {log_of(given.name)!r} than the policy or partner file.",
                remedy="Find out from the log's owner, by the fingerprint, which one is its own.",
            )
    if not keys:
        raise UsageError(
            "proof.no_key",
            "Without the log's key a proof proves nothing: anyone could have made it.",
            remedy="Give --partner, --policy or --key, with the key that the log's owner gave you.",
        )
    name = log_of(proof.checkpoint.origin)
    if name not in keys:
        raise UsageError(
            "proof.log_unknown",
            f"The proof is of the log {name!r}, and the keys given are of {', '.join(sorted(keys))}.",
            remedy="Give that log's key too.",
        )
    return replace(trust, keys=keys)


def _proven_data(proof: Proof, proven: ProvenEntry) -> dict[str, Any]:
    return {
        "result": "holds",
        "log": log_of(proven.checkpoint.origin),
        "seq": proof.index,
        "key": str(proven.key),
        "checkpoint": {"size": proven.checkpoint.size, "root": proven.checkpoint.root.hex()},
        "cosigned": [{"by": log_of(cosignature.name), "time": cosigned_at(cosignature)} for cosignature in proven.cosignatures],
        "entry": proven.entry,
    }


def _print(console: Console, proof: Proof, proven: ProvenEntry) -> None:
    name, size = log_of(proven.checkpoint.origin), proven.checkpoint.size
    console.print(f"holds: this is entry {proof.index} of the log {name!r}, as signed when it had {size} entries", style="green")
    console.print(f"  under the key {proven.key}")
    for cosignature in proven.cosignatures:
        console.print(f"  cosigned by {log_of(cosignature.name)}, {cosigned_at(cosignature)}")
    own = {field: value for field, value in proven.entry.items() if field not in FRAME_FIELDS}
    frame = {field: proven.entry[field] for field in FRAME_FIELDS if field not in ("v", "log", "seq", "prev")}
    for field, value in {**frame, **own}.items():
        if value != "" and not (field in ("attempt", "round") and value == 0):
            console.print(f"  {visible(field)}: {visible(value if isinstance(value, str) else json.dumps(value))}")
