"""Hands without a key: files are changed after everything was signed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from audit.signing import SigningKey
from tests.second_verifier import canonical
from tests.tampering.story import DASH, Story, Tree, signature_line
from tests.tampering.telling import root_of


@dataclass
class Files:
    """The written folders of all logs; ``story`` says what they hold."""

    folders: dict[str, Path]
    story: Story

    def lines(self, name: str = "bank") -> list[bytes]:
        """The lines of a log, newlines included."""
        return (self.folders[name] / "log.jsonl").read_bytes().splitlines(keepends=True)

    def put(self, lines: list[bytes], name: str = "bank") -> None:
        """Write a log's lines."""
        (self.folders[name] / "log.jsonl").write_bytes(b"".join(lines))

    def place(self, kind: str, name: str = "bank", **fields: object) -> int:
        """Where the first entry of a kind stands."""
        log = self.story[name]
        return log.entries().index(log.first(kind, **fields))

    def edit(self, place: int, old: bytes, new: bytes, name: str = "bank") -> None:
        """Change bytes of one line."""
        lines = self.lines(name)
        if old not in lines[place]:
            raise LookupError(f"{old!r} is not in line {place}")
        lines[place] = lines[place].replace(old, new, 1)
        self.put(lines, name)

    def note(self, name: str = "bank") -> Path:
        """The newest checkpoint by its size."""
        return sorted((self.folders[name] / "checkpoints").iterdir())[-1]

    def rechain(self, change: Callable[[int, dict], None], name: str = "bank") -> None:
        """Change entries and make every ``prev`` after them good: only the signed root still knows."""
        prev, changed = "", []
        for number, line in enumerate(self.lines(name)):
            entry = json.loads(line)
            change(number, entry)
            data = canonical(entry | {"prev": prev})
            prev = Tree().append(data).hex()
            changed.append(data + b"\n")
        self.put(changed, name)


# ---- (0) and what cannot be used ------------------------------------------------------------------------------------------------


def first_line_garbled(files: Files) -> None:
    lines = files.lines()
    files.put([b"#" + lines[0], *lines[1:]])
    shutil.rmtree(files.folders["bank"] / "checkpoints")
    (files.folders["bank"] / "checkpoint").unlink()


def log_emptied(files: Files) -> None:
    files.put([])
    shutil.rmtree(files.folders["bank"] / "checkpoints")
    (files.folders["bank"] / "checkpoint").unlink()


def log_given_as_another_s(files: Files) -> None:
    shutil.rmtree(files.folders["platform"])
    shutil.copytree(files.folders["bank"], files.folders["platform"])


def log_of_a_stranger(files: Files) -> None:
    for path in [files.folders["bank"] / "checkpoint", *(files.folders["bank"] / "checkpoints").iterdir()]:
        path.write_text(path.read_text().replace("isthmus.log/bank", "isthmus.log/stranger"))


def line_cut(files: Files) -> None:
    lines = files.lines()
    files.put([*lines[:-1], lines[-1][:-40]])


def line_cut_within(files: Files) -> None:
    lines = files.lines()
    files.put([*lines[:20], lines[20][:90] + b"\n", *lines[21:]])


def newline_lost(files: Files) -> None:
    lines = files.lines()
    files.put([*lines[:-1], lines[-1][:-1]])


def white_space_added(files: Files) -> None:
    files.edit(12, b'{"attempt":', b'{ "attempt":')


def field_twice(files: Files) -> None:
    files.edit(12, b'{"attempt":0,', b'{"attempt":0,"attempt":0,')


def integer_as_float(files: Files) -> None:
    files.edit(12, b'{"attempt":0,', b'{"attempt":0.0,')


def line_over_long(files: Files) -> None:
    files.edit(12, b'"kind":"', b'"kind":"' + b"x" * 2**20)


def version_unknown(files: Files) -> None:
    files.edit(files.place("message", type="PsiStart"), b'"v":1}', b'"v":2}')


def not_utf8(files: Files) -> None:
    files.edit(12, b'"kind":"', b'"kind":"\xff')


# ---- (1) ------------------------------------------------------------------------------------------------------------------------


def checkpoint_with_another_root(files: Files) -> None:
    text = files.note().read_text().split("\n")
    files.note().write_text("\n".join([*text[:2], root_of("another"), *text[3:]]))


def checkpoint_with_another_size(files: Files) -> None:
    text = files.note().read_text().split("\n")
    files.note().write_text("\n".join([text[0], str(int(text[1]) - 1), *text[2:]]))


def checkpoint_extended(files: Files) -> None:
    files.note().write_text(files.note().read_text().replace("\n\n", "\nextension\n\n", 1))


def checkpoint_garbled(files: Files) -> None:
    (files.folders["bank"] / "checkpoint").write_bytes(b"\x00\xff not a note")


def checkpoint_under_a_thief_s_key(files: Files) -> None:
    key = SigningKey("isthmus.log/bank", bytes(range(32)))
    text = files.note().read_text().split("\n\n")[0] + "\n"
    (files.folders["bank"] / "checkpoint").write_text(text + "\n" + signature_line(key, text))


def checkpoint_unsigned(files: Files) -> None:
    """The log's own line is gone; its witnesses' lines alone do not make a checkpoint."""
    kept = [line for line in files.note().read_text().split("\n") if not line.startswith(f"{DASH} isthmus.log/bank ")]
    files.note().write_text("\n".join(kept))


def checkpoint_of_another_log(files: Files) -> None:
    shutil.copy(files.folders["platform"] / "checkpoint", files.folders["bank"] / "checkpoints" / "000000000001")


def two_heads_of_one_size(files: Files) -> None:
    """The bank signed another tree of the same size, and both notes are at hand: this needs its key, and no file of its log."""
    path = files.folders["bank"] / "checkpoint"
    origin, size, *_ = path.read_text().split("\n")
    text = f"{origin}\n{size}\n{root_of('another')}\n"
    path.write_text(text + "\n" + signature_line(files.story.keys["bank"], text))


def cosignature_altered(files: Files) -> None:
    _edit_line(files, f"{DASH} isthmus.log/platform ", lambda line: line[:-6] + ("A" if line[-6] != "A" else "B") + line[-5:])


def cosignature_moved_from_another_checkpoint(files: Files) -> None:
    older = sorted((files.folders["bank"] / "checkpoints").iterdir())[-2].read_text().split("\n")
    line = next(line for line in older if line.startswith(f"{DASH} isthmus.log/platform "))
    _edit_line(files, f"{DASH} isthmus.log/platform ", lambda _: line)


def _edit_line(files: Files, start: str, change: Callable[[str], str]) -> None:
    lines = files.note().read_text().split("\n")
    place = next(number for number, line in enumerate(lines) if line.startswith(start))
    lines[place] = change(lines[place])
    files.note().write_text("\n".join(lines))


def witnessed_checkpoint_altered(files: Files) -> None:
    path = files.folders["platform"] / "witness" / "bank"
    text = path.read_text().split("\n")
    path.write_text("\n".join([*text[:2], root_of("another"), *text[3:]]))


def witnessed_checkpoint_not_cosigned(files: Files) -> None:
    """The bank's own signature stays: anyone may copy it; without its own line the platform never vouched for it."""
    path = files.folders["platform"] / "witness" / "bank"
    path.write_text(
        "\n".join(line for line in path.read_text().split("\n") if not line.startswith(f"{DASH} isthmus.log/platform "))
    )


# ---- (3) ------------------------------------------------------------------------------------------------------------------------


def byte_flipped(files: Files) -> None:
    files.edit(files.place("message", type="PsiStart"), b'"items":1', b'"items":3')


def last_entry_edited(files: Files) -> None:
    files.edit(-1, b'"finished"', b'"canceled"')


def time_edited(files: Files) -> None:
    lines = files.lines()
    files.edit(30, json.loads(lines[30])["time"].encode(), b"2001-01-01T00:00:00.000000Z")


def entry_dropped(files: Files) -> None:
    lines = files.lines()
    files.put(lines[:20] + lines[21:])


def first_entry_dropped(files: Files) -> None:
    files.put(files.lines()[1:])


def entry_inserted(files: Files) -> None:
    lines = files.lines()
    forged = canonical(json.loads(lines[20]) | {"kind": "message", "items": 0}) + b"\n"
    files.put([*lines[:21], forged, *lines[21:]])


def entry_repeated(files: Files) -> None:
    lines = files.lines()
    files.put(lines[:21] + lines[20:])


def entries_swapped(files: Files) -> None:
    lines = files.lines()
    lines[20], lines[21] = lines[21], lines[20]
    files.put(lines)


def end_cut(files: Files) -> None:
    files.put(files.lines()[:-2])


def entry_of_another_log_s(files: Files) -> None:
    lines = files.lines()
    files.put([*files.lines("platform")[:1], *lines[1:]])


def chain_made_good(files: Files) -> None:
    def change(number: int, entry: dict) -> None:
        if entry["kind"] == "disclosure":
            entry["count"] += 1

    files.rechain(change)


def entry_taken_out_and_chain_made_good(files: Files) -> None:
    lines = files.lines()
    files.put(lines[:20] + lines[21:])
    files.rechain(lambda number, entry: entry.update(seq=number))


def coordinator_s_entry_edited(files: Files) -> None:
    files.edit(files.place("directive", "coordinator"), b'"step":"align"', b'"step":"round"', "coordinator")


def entry_appended_unsigned(files: Files) -> None:
    """With a right chain, but over the last checkpoint: it may be what a crash left unsigned."""
    _append(files, {"kind": "software", "version": "0.0.0", "python": "3.11.7", "lock_sha256": "0" * 64})


def end_of_the_job_appended_again(files: Files) -> None:
    _append(files, {"kind": "job", "job": files.story.job, "state": "failed", "code": "job.interrupted"})


def _append(files: Files, own: dict[str, object]) -> None:
    lines = files.lines()
    last = json.loads(lines[-1])
    frame = {"v": 1, "log": "bank", "seq": len(lines), "prev": Tree().append(lines[-1][:-1]).hex(), "time": last["time"]}
    blank = {"job": "", "step": "", "attempt": 0, "round": 0}
    files.put([*lines, canonical(frame | blank | own) + b"\n"])


def cosignatures_stripped(files: Files) -> None:
    """Nobody vouches for the bank's log any more; nothing in it is wrong."""
    folder = files.folders["bank"]
    for path in [folder / "checkpoint", *(folder / "checkpoints").iterdir()]:
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(DASH) or " isthmus.log/bank " in line))


def witness_s_memory_garbled(files: Files) -> None:
    (files.folders["platform"] / "witness" / "bank").write_bytes(b"nothing")
