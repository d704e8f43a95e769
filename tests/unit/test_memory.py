"""Ciphertexts stream: memory grows with the machine words a row needs, not with ciphertexts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = r"""
import queue, sys, threading
from dataclasses import replace
import numpy as np
from node.crypto.drbg import Drbg
from node.crypto.paillier_keys import generate_key
from node.engine import InlineEngine
from node.limits import LIMITS
from node.protocols.channel import silent
from node.protocols.masked_product import JobKeys, exchange_column_products, exchange_row_products
from node.protocols.scales import column_layout, score_layout

class Bounded:
    def __init__(self, out, into):
        self.out, self.into = out, into
    def send(self, message):
        self.out.put(message.SerializeToString(), timeout=60)
    def recv(self, kind):
        return kind.FromString(self.into.get(timeout=60))

KEYS = [generate_key(512, Drbg(bytes([i]) * 32, job="j", step="k").stream("key")) for i in (1, 2)]

def run(rows, what):
    links = queue.Queue(2), queue.Queue(2)  # the least that two batches ahead need
    layout = column_layout(plaintext_bits=510, rows=rows, slots=1)
    scores = score_layout(plaintext_bits=510, columns=2, slots=1, ring_bits=40)
    def party(side):
        ch = Bounded(links[side], links[1 - side])
        common = dict(keys=JobKeys.of(KEYS[side], KEYS[1 - side].public), matrix=np.ones((rows, 2), dtype=np.int32),
            drbg=Drbg(bytes([side]) * 32, job="j", step=what), engine=InlineEngine(),
            limits=replace(LIMITS, batches_ahead=2), progress=silent)
        if what == "columns":
            exchange_column_products(ch, masks=np.zeros((1, rows), dtype=np.uint64), peer_columns=2, layout=layout, **common)
        else:
            exchange_row_products(ch, masks=[[1, 2]], layout=scores, peer_layout=scores, **common)
    threads = [threading.Thread(target=party, args=(side,)) for side in (0, 1)]
    [t.start() for t in threads]
    [t.join() for t in threads]

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

for what in ("columns", "rows"):
    run(3000, what)
    before = peak()
    run(33000, what)
    print(what, peak() - before)
"""


def test_ciphertexts_are_not_kept() -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        what, grown = line.split()
        a_row = int(grown) / 30_000
        print(f"{what}: {a_row:.0f} bytes for each further row, both parties together")
        # A ciphertext of this small key is about 180 bytes as a number, and each party handles two a row.
        assert a_row < 250, line
