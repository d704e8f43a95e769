"""Paillier: rates of encryption, decryption and products, beside the same work through phe's own objects in the same run.

    python -m bench.crypto [--bits N ...] [--rows N] [--columns N] [--repeats N] [--windows] [--quick] [--json FILE]

One core; medians of CPU time, ours and phe's taking turns.  phe gets the same keys and the same non-negative entries (negative ones
would cost it inversions): encryption is ``PaillierPublicKey.encrypt``, products are sums of ``EncryptedNumber * int``.  Our row
products put five rows in a ciphertext.  An encryptor's tables are listed apart; the tables of row products and the combination of
buckets are within their figures, spread over ``--rows``.
"""

from __future__ import annotations

import argparse
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import gmpy2
import numpy as np
from gmpy2 import mpz
from numpy.typing import NDArray
from phe.paillier import EncryptedNumber
from rich import box
from rich.console import Console
from rich.table import Table

from bench.common import machine, medians, write_json
from node.crypto.drbg import Drbg
from node.crypto.paillier import Decryptor, OwnerEncryptor, PeerEncryptor
from node.crypto.paillier_keys import SecretKey, generate_key
from node.crypto.products import ColumnProducts, RowProducts

ENTRY_BITS = 14
BATCH = 256
SHIFTS = tuple(range(0, 5 * 336, 336))
PHE_SHARE = 40
"""phe does one in so many of the rows: its cost does not depend on how many."""
Matrix = NDArray[np.int64]


def entries(kind: str, rows: int, columns: int) -> Matrix:
    """Entries as training has them: fixed point 2**-10, offset by 2**13."""
    rng = np.random.default_rng(1)
    if kind == "one-hot":  # present in a tenth of the rows, standardised
        values = np.where(rng.random((rows, columns)) < 0.1, 3.0, -1 / 3)
    else:
        values = rng.normal(size=(rows, columns))
    return np.clip(np.rint(values * 1024), -8191, 8191).astype(np.int64) + 8192


def column_products(key: SecretKey, ciphertexts: list[mpz], matrix: Matrix) -> tuple[list[mpz], int]:
    """Ours, and the digits of an entry."""
    products = ColumnProducts(key.public, columns=matrix.shape[1], entry_bits=ENTRY_BITS, expected_rows=len(matrix))
    for first in range(0, len(matrix), BATCH):
        part = matrix[first : first + BATCH]
        products.add([ciphertexts[i % len(ciphertexts)] for i in range(first, first + len(part))], part)
    return products.result(), products.digits


def row_products(key: SecretKey, bases: list[mpz], matrix: Matrix) -> tuple[list[mpz], int]:
    """Ours, and the digits of an entry."""
    products = RowProducts(key.public, bases, entry_bits=ENTRY_BITS, shifts=SHIFTS, expected_rows=len(matrix))
    step = len(SHIFTS) * (BATCH // len(SHIFTS))
    made = [c for first in range(0, len(matrix), step) for c in products.multiply(matrix[first : first + step])]
    return made, products.digits


def phe_columns(numbers: list[EncryptedNumber], matrix: list[list[int]]) -> list[EncryptedNumber]:
    """One encrypted number per row; a sum for each column."""
    columns = zip(*matrix, strict=True)
    return [reduce(add, [numbers[i % len(numbers)] * x for i, x in enumerate(column)]) for column in columns]


def phe_rows(numbers: list[EncryptedNumber], matrix: list[list[int]]) -> list[EncryptedNumber]:
    """One encrypted number per column; a sum for each row."""
    return [reduce(add, [c * x for c, x in zip(numbers, row, strict=True)]) for row in matrix]


def check(key: SecretKey, ours: list[mpz], theirs: list[EncryptedNumber]) -> None:
    """Both computed the same."""
    if Decryptor(key).decrypt(ours) != [key.to_phe().raw_decrypt(int(c.ciphertext(be_secure=False))) for c in theirs]:
        raise SystemExit("the products differ from phe's: the figures mean nothing")


def measure(bits: int, rows: int, columns: int, count: int, repeats: int) -> list[dict[str, Any]]:
    """One row per kind of work: units a second, microseconds a unit, phe's, the ratio."""
    drbg = Drbg(bytes(32), job="bench", step=str(bits))
    key = generate_key(bits, drbg.stream("key"))
    public, private = key.public.to_phe(), key.to_phe()
    plain, noise = list(range(1, count + 1)), drbg.stream("noise")
    owner, peer, decryptor = OwnerEncryptor(key, expected=10**5), PeerEncryptor(key.public, expected=10**5), Decryptor(key)
    ciphertexts = peer.encrypt(plain, noise)
    numbers = [EncryptedNumber(public, int(c)) for c in ciphertexts]
    few = max(count // 10, 2)
    lines = []

    def line(work: str, unit: str, ours: float, theirs: float, digits: int = 0) -> None:
        row: dict[str, Any] = {"bits": bits, "work": work, "unit": unit, "per_second": 1 / ours, "us": ours * 1e6}
        row |= {"phe_per_second": 1 / theirs, "phe_us": theirs * 1e6, "ratio": theirs / ours}
        if digits:
            row |= {"digits": digits, "us_per_entry_digit": ours * 1e6 / digits}
        lines.append(row)

    got = medians(
        {
            "owner": (lambda: owner.encrypt(plain, noise), count),
            "peer": (lambda: peer.encrypt(plain, noise), count),
            "rerandomise": (lambda: peer.rerandomise(ciphertexts, noise), count),
            "phe encrypt": (lambda: [public.encrypt(m) for m in plain[:few]], few),
            "decrypt": (lambda: decryptor.decrypt(ciphertexts), count),
            "phe decrypt": (lambda: [private.decrypt(c) for c in numbers], count),
        },
        repeats,
    )
    line("encryption, owner", "ciphertext", got["owner"], got["phe encrypt"])
    line("encryption, peer", "ciphertext", got["peer"], got["phe encrypt"])
    line("re-randomisation", "ciphertext", got["rerandomise"], got["phe encrypt"])
    line("decryption", "ciphertext", got["decrypt"], got["phe decrypt"])
    small = max(rows // PHE_SHARE, 3)
    for kind in ("normal", "one-hot"):
        matrix = entries(kind, rows, columns)
        reduced, bases, base_numbers = matrix[:small].tolist(), ciphertexts[:columns], numbers[:columns]
        check(key, column_products(key, ciphertexts, matrix[:small])[0], phe_columns(numbers, reduced))
        check(
            key,
            RowProducts(key.public, bases, entry_bits=ENTRY_BITS, shifts=[0]).multiply(matrix[:small]),
            phe_rows(base_numbers, reduced),
        )
        got = medians(
            {
                "columns": (lambda matrix=matrix: column_products(key, ciphertexts, matrix), matrix.size),  # type: ignore[misc]
                "phe columns": (lambda reduced=reduced: phe_columns(numbers, reduced), small * columns),  # type: ignore[misc]
                "rows": (lambda matrix=matrix, bases=bases: row_products(key, bases, matrix), matrix.size),  # type: ignore[misc]
                "phe rows": (lambda reduced=reduced, some=base_numbers: phe_rows(some, reduced), small * columns),  # type: ignore[misc]
            },
            repeats,
        )
        digits = column_products(key, ciphertexts, matrix)[1], row_products(key, bases, matrix)[1]
        line(f"column products, {kind}", "entry", got["columns"], got["phe columns"], digits[0])
        line(f"row products, {kind}", "entry", got["rows"], got["phe rows"], digits[1])
    return lines


def parts(bits: int, repeats: int, windows: bool) -> dict[str, float]:
    """What the rates are made of, in microseconds: both forms of a multiplication, tables, keys, encryption by window."""
    drbg = Drbg(bytes(32), job="bench parts", step=str(bits))
    key = generate_key(bits, drbg.stream("key"))
    n, square, noise = key.public.n, key.public.n_squared, drbg.stream("noise")
    values = PeerEncryptor(key.public).encrypt(range(500), noise)
    lows, taus = [c % n for c in values], [c // n for c in values]  # the size of a tau is all that matters here

    def plain() -> None:
        product = mpz(3)
        for value in values:
            product = product * value % square

    def low_tau() -> None:
        product, total = values[0], mpz(0)
        for low, tau in zip(lows, taus, strict=True):
            product = product * low % square
            total += tau

    tasks: dict[str, Any] = {"plain product": (plain, 500), "low-tau product": (low_tau, 500)}
    for width in (6, 7, 8, 9, 10) if windows else ():
        owner, peer = OwnerEncryptor(key, window=width), PeerEncryptor(key.public, window=width)
        tasks[f"tables, window {width}"] = (lambda width=width: PeerEncryptor(key.public, window=width).encrypt([1], noise), 1)
        tasks[f"owner, window {width}"] = (lambda owner=owner: owner.encrypt(range(50), noise), 50)
        tasks[f"peer, window {width}"] = (lambda peer=peer: peer.encrypt(range(50), noise), 50)
    tasks["tables of an encryptor"] = (lambda: PeerEncryptor(key.public, expected=10**5).encrypt([1], noise), 1)
    tasks["key"] = (lambda: generate_key(bits, noise), 1)
    return {name: seconds * 1e6 for name, seconds in medians(tasks, repeats).items()}


def show(console: Console, bits: int, lines: list[dict[str, Any]], pieces: dict[str, float]) -> None:
    """The table of one key size."""
    table = Table(box=box.SIMPLE_HEAD, title=f"Paillier at {bits} bits, one core", title_justify="left")
    table.add_column("")
    for name in ("a second", "us each", "a digit", "phe: us", "a second", "ratio"):
        table.add_column(name, justify="right")
    for row in lines:
        table.add_row(
            row["work"],
            f"{row['per_second']:,.0f}",
            f"{row['us']:,.1f}",
            f"{row['us_per_entry_digit']:.2f}" if "digits" in row else "",
            f"{row['phe_us']:,.1f}",
            f"{row['phe_per_second']:,.0f}",
            f"{row['ratio']:.1f}",
        )
    console.print(table)
    console.print("us: " + "; ".join(f"{name} {us:,.2f}" for name, us in pieces.items()) + "\n", style="dim")


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m bench.crypto", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bits", type=int, nargs="+", default=[2048, 3072], help="sizes of the modulus")
    parser.add_argument("--rows", type=int, default=8000, help="rows of the products")
    parser.add_argument("--columns", type=int, default=20, help="columns of the products")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds of each figure")
    parser.add_argument("--windows", action="store_true", help="also encryption by width of the window, 6 to 10 bits")
    parser.add_argument("--quick", action="store_true", help="one round of little work, to see that it runs")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    given = parser.parse_args()
    rows, count, repeats = (300, 30, 1) if given.quick else (given.rows, 200, given.repeats)
    columns = min(given.columns, count)
    console = Console()
    console.print("; ".join(f"{name} {value}" for name, value in machine().items()), f"; gmp {gmpy2.mp_version()}", style="dim")
    lines, pieces = [], {}
    for bits in given.bits:
        measured = measure(bits, rows, columns, count, repeats)
        pieces[bits] = parts(bits, repeats, given.windows)
        show(console, bits, measured, pieces[bits])
        lines += measured
    if given.json:
        settings = {"rows": rows, "columns": columns, "repeats": repeats, "entry_bits": ENTRY_BITS, "quick": given.quick}
        write_json(given.json, {"benchmark": "crypto", "settings": settings, "results": lines, "parts_us": pieces})
        console.print(f"written to {given.json}", style="dim")


if __name__ == "__main__":
    main()
