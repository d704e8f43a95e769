"""Logs as lists that may be changed, and their way back into files.

A log is read into a list of entries (plain dictionaries) and of marks, where a checkpoint was signed.  Written again unchanged,
every file comes out byte for byte as it was.  Whose hands changed it decides what is signed anew:

- **live**: the owner lied as it wrote.  Its witnesses cosigned what they were shown, so everything is signed anew by everyone.
- **after** (``colluders`` given): these owners write their past anew with their own keys.  What others hold stays as it was: their
  logs, their cosignatures (only where the tree head is still the one they cosigned) and the tree heads they kept.

Nothing here uses the code under test but the reading of keys: entries, trees and notes are made by the words of docs/log-format.md.
"""

from __future__ import annotations

import base64
import copy
import json
import shutil
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from audit.signing import SigningKey
from tests.second_verifier import canonical, key_id, sha

Entry: TypeAlias = dict[str, Any]
DASH = "\u2014"
PARTIES = ("bank", "platform", "coordinator")


@dataclass
class Mark:
    """A checkpoint over the entries before it: the file as it was, who cosigned it when (seconds since 1970), and their lines."""

    note: str
    cosigned: dict[str, int]
    lines: dict[str, str]

    @property
    def text(self) -> str:
        """The text that was signed."""
        return self.note.split("\n\n")[0] + "\n"


@dataclass
class Log:
    """One log."""

    name: str
    items: list[Entry | Mark]
    kept: dict[str, tuple[Mark, int]] = field(default_factory=dict)
    """By log: the mark, in that log, that this owner cosigned last, and when."""

    def entries(self, kind: str = "", **fields: Any) -> list[Entry]:
        """Entries of a kind with these fields; the very objects, to be changed."""
        return [
            item
            for item in self.items
            if isinstance(item, dict) and kind in ("", item["kind"]) and all(item.get(k) == v for k, v in fields.items())
        ]

    def first(self, kind: str, **fields: Any) -> Entry:
        """The first such entry."""
        return self.entries(kind, **fields)[0]

    def last(self, kind: str, **fields: Any) -> Entry:
        """The last such entry."""
        return self.entries(kind, **fields)[-1]

    def where(self, entry: Entry | Mark) -> int:
        """Where an item stands."""
        return next(place for place, item in enumerate(self.items) if item is entry)

    def remove(self, *entries: Entry) -> None:
        """Take entries out."""
        gone = {id(entry) for entry in entries}
        self.items = [item for item in self.items if id(item) not in gone]

    def insert(self, after: Entry | Mark, *entries: Entry | Mark) -> None:
        """Put entries behind another one, at its time."""
        place = self.where(after) + 1
        for entry in entries:
            if isinstance(entry, dict) and isinstance(after, dict):
                entry["time"] = after["time"]
        self.items[place:place] = entries

    def swap(self, one: Entry, other: Entry) -> None:
        """Exchange two entries; times stay in order."""
        a, b = self.where(one), self.where(other)
        self.items[a], self.items[b] = other, one
        one["time"], other["time"] = other["time"], one["time"]

    def marks(self) -> list[Mark]:
        """The checkpoints, oldest first."""
        return [item for item in self.items if isinstance(item, Mark)]


@dataclass
class Story:
    """All logs of some jobs, with everyone's keys."""

    logs: dict[str, Log]
    keys: dict[str, SigningKey] = field(repr=False)
    folders: dict[str, Path] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Log:
        return self.logs[name]

    def copy(self) -> Story:
        """A copy to be changed."""
        return Story(copy.deepcopy(self.logs), self.keys, self.folders)

    @property
    def job(self) -> str:
        """The last job's identity."""
        return str(self["coordinator"].last("spec")["job"])

    @property
    def spec(self) -> dict[str, Any]:
        """The last job's specification."""
        return dict(json.loads(self["coordinator"].last("spec")["document"]))

    @property
    def holder(self) -> str:
        """The label holder."""
        return str(self.spec["label_holder"]["name"])

    @property
    def other(self) -> str:
        """The feature holder."""
        return str(self.spec["feature_holder"]["name"])

    def nodes(self) -> Iterator[Log]:
        """The two nodes' logs."""
        return (self.logs[name] for name in ("bank", "platform"))

    # ---- writing ----------------------------------------------------------------------------------------------------------

    def write(self, folder: Path, *, colluders: Collection[str] | None = None, stale: bool = False) -> dict[str, Path]:
        """Write the logs, each into a folder of its name.

        Args:
            colluders: owners who wrote their past anew; None: what stands here is what everybody saw from the beginning.
            stale: a colluder leaves the honest cosignatures of its old tree heads on the new ones.
        """
        notes: dict[int, str] = {}
        for name, log in self.logs.items():
            if colluders is not None and name not in colluders:
                shutil.copytree(self.folders[name], folder / name)
                continue
            (folder / name / "checkpoints").mkdir(parents=True)
            (folder / name / "witness").mkdir()
            shutil.copy(self.folders[name] / "log.pub", folder / name / "log.pub")
            notes |= self._write_log(log, folder / name, colluders, stale)
        for name in self.logs if colluders is None else colluders:
            self._write_kept(self.logs[name], folder / name / "witness", colluders, notes)
        return {name: folder / name for name in self.logs}

    def _write_log(self, log: Log, folder: Path, colluders: Collection[str] | None, stale: bool) -> dict[int, str]:
        lines, prev, tree = [], "", Tree()
        notes: dict[int, str] = {}
        note = ""
        for item in log.items:
            if isinstance(item, Mark):
                note = notes[id(item)] = self._note(log.name, item, tree, colluders, stale)
                (folder / "checkpoints" / f"{tree.size:012d}").write_text(note)
                continue
            line = canonical(item | {"seq": tree.size, "prev": prev})
            prev = tree.append(line).hex()
            lines.append(line + b"\n")
        (folder / "log.jsonl").write_bytes(b"".join(lines))
        if note:
            (folder / "checkpoint").write_text(note)
        return notes

    def _note(self, name: str, mark: Mark, tree: Tree, colluders: Collection[str] | None, stale: bool) -> str:
        text = f"isthmus.log/{name}\n{tree.size}\n{base64.b64encode(tree.root()).decode()}\n"
        lines = [signature_line(self.keys[name], text)]
        for witness, time in mark.cosigned.items():
            if colluders is None or witness in colluders:
                lines.append(cosignature_line(self.keys[witness], text, time))
            elif text == mark.text or stale:
                lines.append(mark.lines[witness])
        return text + "\n" + "".join(lines)

    def _write_kept(self, log: Log, folder: Path, colluders: Collection[str] | None, notes: Mapping[int, str]) -> None:
        for other, (mark, time) in log.kept.items():
            if id(mark) not in notes:
                if colluders is not None and other not in colluders:
                    shutil.copy(self.folders[log.name] / "witness" / other, folder / other)
                continue
            text, _, lines = notes[id(mark)].partition("\n\n")
            own = [line for line in lines.splitlines(keepends=True) if f" isthmus.log/{other} " in line]
            mine = cosignature_line(self.keys[log.name], text + "\n", time)
            (folder / other).write_text(text + "\n\n" + "".join(own) + mine)


class Tree:
    """The tree of RFC 6962 while it grows: the roots of complete subtrees and their sizes."""

    def __init__(self) -> None:
        self.size = 0
        self.peaks: list[tuple[int, bytes]] = []

    def append(self, line: bytes) -> bytes:
        """Append a leaf; returns its hash."""
        leaf = sha(b"\x00", line)
        self.size += 1
        self.peaks.append((1, leaf))
        while len(self.peaks) > 1 and self.peaks[-1][0] == self.peaks[-2][0]:
            (size, right), (_, left) = self.peaks.pop(), self.peaks.pop()
            self.peaks.append((2 * size, sha(b"\x01", left, right)))
        return leaf

    def root(self) -> bytes:
        """The tree head."""
        if not self.peaks:
            return sha()
        value = self.peaks[-1][1]
        for _, left in reversed(self.peaks[:-1]):
            value = sha(b"\x01", left, value)
        return value


def signature_line(key: SigningKey, text: str) -> str:
    """A log's signature on a note."""
    own = key_id(str(key.verifier))[1]
    return f"{DASH} {key.name} {base64.b64encode(own + key.sign(text.encode())).decode()}\n"


def cosignature_line(key: SigningKey, text: str, time: int) -> str:
    """A witness's signature on a note."""
    own = key_id(str(key.verifier), b"\x04")[1]
    signature = key.sign(f"cosignature/v1\ntime {time}\n{text}".encode())
    return f"{DASH} {key.name} {base64.b64encode(own + struct.pack('>Q', time) + signature).decode()}\n"


def read_note(note: str) -> Mark:
    """A checkpoint file: who cosigned it when."""
    cosigned, lines = {}, {}
    for line in note.split("\n\n")[1].splitlines(keepends=True):
        _, name, data = line.split(" ")
        raw = base64.b64decode(data)
        if len(raw) == 4 + 8 + 64:
            witness = name.removeprefix("isthmus.log/")
            cosigned[witness], lines[witness] = struct.unpack(">Q", raw[4:12])[0], line
    return Mark(note, cosigned, lines)


def read_log(folder: Path, name: str) -> Log:
    """The entries and marks of one log."""
    marks = {int(path.name): read_note(path.read_text()) for path in sorted((folder / "checkpoints").iterdir())}
    items: list[Entry | Mark] = []
    for number, line in enumerate((folder / "log.jsonl").read_bytes().splitlines()):
        items.append(json.loads(line))
        if number + 1 in marks:
            items.append(marks[number + 1])
    return Log(name, items)


def read_story(folders: Mapping[str, Path], keys: Mapping[str, SigningKey]) -> Story:
    """The logs of one coordinator and two nodes."""
    story = Story({name: read_log(folder, name) for name, folder in folders.items()}, dict(keys), dict(folders))
    for name, folder in folders.items():
        for path in sorted((folder / "witness").iterdir()):
            kept = read_note(path.read_text())
            mark = next(mark for mark in story[path.name].marks() if mark.text == kept.text)
            story[name].kept[path.name] = mark, kept.cosigned[name]
    return story
