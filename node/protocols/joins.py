"""Several identifiers tried in order, without a customer being found twice (protocols.md, section 1).

A data set may know its customers by telephone number, by e-mail address and by document number, each of them missing here and
there.  The keys of the job are tried one after the other::

    key 1     both sides: values of all own customers that have one              -> alignment (node.protocols.psi)
    key 2     both sides: values of the customers that key 1 has not found       -> alignment
    ...

Each round is a private set intersection of its own, with scalars and a hash of its own, so that nothing links a customer's values
under two keys.  Within a round every value stands once on either side, and who was found leaves on both sides: so nobody is found
twice, and where customer A's telephone number is P's and A's e-mail address is Q's, A is P, and Q may still be found as somebody
else.  The job's order of the keys decides such cases, on both sides alike.

Beside what one alignment shows, both sides learn by which key each shared customer was found, and how many of the other's customers
that were not found before have each key.

The common order is that of the keys, and within a key that of the doubly-masked values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from node.crypto.drbg import Drbg
from node.engine import Engine
from node.errors import DataError
from node.limits import Limits
from node.protocols import psi
from node.protocols.channel import Channel, Progress, silent
from node.scratch import Scratch, chosen


@dataclass(frozen=True)
class Key:
    """One identifier: its name in the job, and each own customer's value, normalised; empty where the customer has none.

    No value but the empty one stands twice.
    """

    name: str
    values: Sequence[str] = field(repr=False)


@dataclass(frozen=True)
class Join:
    """The shared customers, as both sides hold them.

    Attributes:
        rows: (shared,), int64: the index of each shared customer among the own ones, in the order common to both sides.
        own_size, peer_size: identifiers that were brought, all keys together.
        by_key: of each key, the own identifiers that were brought and the customers found.
    """

    rows: NDArray[np.int64] = field(repr=False)
    own_size: int
    peer_size: int
    by_key: tuple[tuple[int, int], ...]


def join(
    ch: Channel,
    *,
    role: psi.Role,
    job: str,
    keys: Sequence[Key],
    minimum: int,
    drbg: Drbg,
    limits: Limits,
    engine: Engine | None = None,
    scratch: Scratch | None = None,
    progress: Progress = silent,
) -> Join:
    """Find the customers both sides have, by the first key that finds them.

    Args:
        ch: link to the peer, which runs the same function in the other role with keys of the same names in the same order.
        keys: at least one; all have a value, or the empty text, for every own customer.
        scratch: takes the values of each key that are brought, where they are too many for memory.
        minimum: fewest shared customers this side's policy accepts, all keys together; the other arguments are those of
            :func:`node.protocols.psi.align`.

    Raises:
        DataError: ``psi.key_lengths`` where two keys are not of the same customers.  And what :func:`node.protocols.psi.align`
            raises, but for empty sets: a key that nobody has finds nobody.
    """
    customers = len(keys[0].values)
    if any(len(key.values) != customers for key in keys):
        raise DataError("psi.key_lengths", "Two identifiers of the own customers are not of the same length.")
    waiting = np.ones(customers, dtype=bool)
    found: list[NDArray[np.int64]] = []
    sizes: list[tuple[int, int]] = []
    count = peer_size = 0
    for place, key in enumerate(keys):
        brought = np.flatnonzero(waiting & np.fromiter(map(bool, key.values), dtype=bool, count=customers)).astype(np.int64)
        aligned = psi.align(
            ch,
            role=role,
            job=job,
            identifiers=chosen(key.values, brought, scratch),
            minimum=minimum if place == len(keys) - 1 else 0,  # what a later key finds counts too
            drbg=drbg,
            limits=limits,
            engine=engine,
            progress=progress,
            key=key.name,
            found=count,
            empty=True,
        )
        rows = brought[aligned.rows]
        waiting[rows] = False
        found.append(rows)
        sizes.append((aligned.own_size, len(rows)))
        count, peer_size = count + len(rows), peer_size + aligned.peer_size
    return Join(np.concatenate(found), sum(size for size, _ in sizes), peer_size, tuple(sizes))
