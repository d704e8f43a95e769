"""Every bound of the node, in one place; each is checked before memory is allocated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds on what a peer, a file or a job may ask of this node.

    All sizes are bytes or counts.  A protocol receives its limits as a parameter; nothing reads a global.
    """

    message_bytes: int = 8 * 2**20
    """Largest serialised peer message."""
    psi_elements: int = 200_000_000
    """Most identifiers one side may declare."""
    psi_batch: int = 16_384
    """Identifiers in one alignment message."""
    scratch_bytes: int = 512 * 2**20
    """What a step holds in memory of the rows of its data set and their hashes; more goes to an encrypted file of its own."""
    ciphertext_batch: int = 256
    """Ciphertexts in one message (at 3072 bits: 768 bytes each)."""
    batches_ahead: int = 8
    """Batches of ciphertexts that a party sends before it waits for the peer's first: more than a round trip takes to make.  A link
    must hold as many unread messages a direction; the session's window does (below)."""
    lookup_batch: int = 4_096
    """Rows in one lookup message (at 64 entries of 8 bytes: 2 MiB)."""
    vector_batch: int = 65_536
    """Entries in one message of masked vector entries."""
    columns: int = 1_024
    """Most encoded feature columns of one party (the intercept not counted): the preconditioner's time grows with the cube."""
    rounds: int = 64
    """Most rounds of one training."""
    key_bits_min: int = 2048
    """Smallest Paillier modulus accepted from a peer outside tests."""
    key_bits_max: int = 8192
    """Largest Paillier modulus accepted from a peer."""
    spec_bytes: int = 256 * 2**10
    """Largest job specification."""
    chunk_bytes: int = 2**20
    """Largest part of a message in one frame: what a cut loses of a message that was all but there, and what a slow link must carry
    before it shows another sign of life."""
    window_bytes: int = 32 * 2**20
    """Bytes of one direction of a session that were sent but not yet taken by the peer's protocol; then ``send`` blocks
    (back-pressure).  The sender keeps them to send again, the receiver until its protocol asks, so each side holds at most twice
    this, one for each direction."""
    window_frames: int = 4096
    """The same in frames."""
    streams_of_one: int = 16
    """Streams that one partner may hold at once: fewer than there are threads, so that no partner shuts another out."""
    jobs_open: int = 256
    """Jobs that wait or run here at once; a further offer is not taken in."""


LIMITS = Limits()
