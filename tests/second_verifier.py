"""A second verifier, written from docs/log-format.md alone: it imports nothing of the project.

``verify(folders, keys)`` takes log folders and verifier keys by the logs' names; it returns the entries it read, or raises
:class:`Bad` where the page says that logs do not stand.
"""

import base64
import hashlib
import json
import re
import struct
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

FRAME = dict.fromkeys(("log", "prev", "time", "kind", "job", "step"), str) | dict.fromkeys(("v", "seq", "attempt", "round"), int)
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


class Bad(Exception):
    """Which rule of the page is broken."""


def must(holds, rule):
    if not holds:
        raise Bad(rule)


def sha(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def field(text):
    return struct.pack(">I", len(text.encode())) + text.encode()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def exact(value):
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return not isinstance(value, float) and not (isinstance(value, int) and abs(value) >= 2**53) and all(map(exact, parts))


def parse(line):
    try:
        entry = json.loads(line)
        must(len(line) <= 2**20 and exact(entry) and canonical(entry) == line, "an entry is too long or not canonical")
    except ValueError as error:
        raise Bad("a line is no JSON") from error
    must(all(type(entry.get(name)) is kind for name, kind in FRAME.items()) and entry["v"] == 1, "the frame is broken")
    return entry


def root(leaves):
    if len(leaves) < 2:
        return leaves[0] if leaves else sha()
    left = 1 << (len(leaves) - 1).bit_length() - 1
    return sha(b"\x01", root(leaves[:left]), root(leaves[left:]))


def key_id(key, algorithm=b"\x01"):
    name, _, encoded = key.split("+", 2)
    return name, sha(name.encode(), b"\n", algorithm, base64.b64decode(encoded)[1:])[:4]


def signed(key, signature, message):
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(key.split("+", 2)[2])[1:]).verify(signature, message)
    except InvalidSignature as error:
        raise Bad("a signature does not hold") from error


def checkpoint(note, key, witnesses):
    """Size, root and cosigners of a signed note; every line that names a known key must hold."""
    text, _, lines = note.decode().partition("\n\n")
    signers, cosigners = set(), set()
    for name, data in (line.split(" ")[1:] for line in lines.splitlines()):
        raw = base64.b64decode(data)
        if (name, raw[:4]) == key_id(key):
            signed(key, raw[4:], f"{text}\n".encode())
            signers.add(name)
        for witness in witnesses:
            if (name, raw[:4]) == key_id(witness, b"\x04"):
                time = struct.unpack(">Q", raw[4:12])[0]
                signed(witness, raw[12:], f"cosignature/v1\ntime {time}\n{text}\n".encode())
                cosigners.add(name)
    origin, size, value = text.split("\n")[:3]
    must(signers == {origin}, "a checkpoint is not signed by its log")
    return int(size), base64.b64decode(value), cosigners


def read(folder, name, keys):
    """The entries and leaf hashes of one log, whole and under its checkpoints."""
    entries, leaves, witnesses = [], [], [key for other, key in keys.items() if other != name]
    *lines, rest = (folder / "log.jsonl").read_bytes().split(b"\n")
    for line in lines:
        entry = parse(line)
        must((entry["log"], entry["seq"]) == (name, len(entries)), "an entry is out of its place")
        must(entry["prev"] == (leaves[-1].hex() if leaves else ""), "the chain is broken")
        must(TIME.fullmatch(entry["time"]) and (not entries or entries[-1]["time"] <= entry["time"]), "the clock runs backwards")
        entries.append(entry)
        leaves.append(sha(b"\x00", line))
    must(rest == b"", "the last line is torn")
    for path in [folder / "checkpoint", *(folder / "checkpoints").iterdir()]:
        size, value, _ = checkpoint(path.read_bytes(), keys[name], witnesses)
        must(path.name in ("checkpoint", f"{size:012d}"), "a checkpoint's name is not its size")
        must(size <= len(leaves) and root(leaves[:size]) == value, "a checkpoint is of other entries")
    return entries, leaves


def place(entry):
    return entry["job"], entry["step"], entry["round"], entry["attempt"]


def one_way(entries, where, direction, kind="message"):
    return [e for e in entries if e["kind"] == kind and place(e) == where and e["direction"] == direction]


def transcript(entries, owner, where, parties):
    """What both nodes sign: a digest over the messages of one attempt, the label holder's first."""
    parts = [b"isthmus transcript v1", field(where[0]), field(where[1]), struct.pack(">QQ", *where[2:])]
    for party in parties:
        mine = one_way(entries, where, "sent" if party == owner else "received")
        told = (field(m["type"]) + struct.pack(">Q", m["length"]) + bytes.fromhex(m["sha256"]) for m in mine)
        parts += [field(party), struct.pack(">Q", len(mine)), sha(*told)]
    return sha(*parts).hex()


def receipts(entries, owner, peer, where, digest, keys):
    names = dict(zip(("job", "step", "round", "attempt"), where, strict=True))
    statement = canonical({"v": 1, "kind": "isthmus.receipt", **names, "digest": digest})
    for direction, signer in (("sent", owner), ("received", peer)):
        given = one_way(entries, where, direction, "receipt")
        must([receipt["digest"] for receipt in given] == [digest], "a receipt is missing or over other messages")
        signed(keys[signer], bytes.fromhex(given[0]["signature"]), statement)


def approval(entry, keys, parties):
    """The party that approved, each naming the other as its peer; nobody where it is a rejection."""
    statement = json.loads(entry["statement"])
    must((statement["kind"], statement["job"]) == ("isthmus.approval", entry["job"]), "an approval is another job's")
    must({statement["party"], statement["peer"]} == set(parties), "an approval names another party")
    signed(keys[statement["party"]], bytes.fromhex(entry["signature"]), entry["statement"].encode())
    return {statement["party"]} if statement["decision"] == "approve" else set()


def told(entries, where, direction):
    return [[m[name] for name in ("number", "type", "length", "sha256", "items")] for m in one_way(entries, where, direction)]


def verify(folders, keys):
    read_logs = {name: read(Path(folder), name, keys) for name, folder in folders.items()}
    for name, folder in folders.items():
        for path in (Path(folder) / "witness").iterdir():
            size, value, cosigners = checkpoint(path.read_bytes(), keys[path.name], [keys[name]])
            must(cosigners and root(read_logs[path.name][1][:size]) == value, "a log is not the one that was cosigned")
    logs = {name: entries for name, (entries, _) in read_logs.items()}
    parties, approved, attempts, digests = {}, {}, set(), {}
    for name, entry in ((name, entry) for name, entries in logs.items() for entry in entries):
        where, agreed = place(entry), approved.setdefault((name, entry["job"]), set())
        if entry["kind"] == "spec":
            must(sha(entry["document"].encode()).hex() == entry["job"], "a specification is another job's")
            parties[entry["job"]] = [json.loads(entry["document"])[role]["name"] for role in ("label_holder", "feature_holder")]
        elif entry["kind"] == "approval":
            agreed |= approval(entry, keys, parties[entry["job"]])
        elif entry["kind"] in ("step", "message", "directive"):
            must(agreed == set(parties[entry["job"]]), "a step began before both approved")
        if entry["kind"] == "message":
            attempts.add(where)
        if entry["kind"] == "step" and entry["state"] == "done":
            pair = parties[entry["job"]]
            digests[name, where] = transcript(logs[name], name, where, pair)
            must(entry["transcript_sha256"] == digests[name, where], "a step done names another transcript")
            receipts(logs[name], name, pair[pair[0] == name], where, digests[name, where], keys)
    for report in (entry for entries in logs.values() for entry in entries if entry["kind"] == "report"):
        must(report["transcript_sha256"] == digests[report["party"], place(report)], "a report names another transcript")
    done = {where for _, where in digests}
    for where in attempts | done:
        for sender, receiver in (parties[where[0]], parties[where[0]][::-1]):
            sent, got = told(logs[sender], where, "sent"), told(logs[receiver], where, "received")
            must(got == (sent if where in done else sent[: len(got)]), "the two nodes tell of other messages")
            must([number for number, *_ in sent] == list(range(len(sent))), "a message has no place")
    return logs
