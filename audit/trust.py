"""Whom a serving process trusts and what it shows of itself, as the files say now: no restart when a certificate is renewed.

The process looks at the files from its main loop (:meth:`Trust.refresh`).  A partner file that was replaced is read again; a
damaged one leaves the trust as it was.  What a change can do to a partner that is known:

    other certificates, other address   taken up
    the file is gone                    no certificate of it is accepted any more; known by name and log key until the next start
    another log key or role             the same: the new one is taken up by the next start, which a person decides on

The process's own certificate is taken up when ``tls.crt`` changes (:func:`audit.renewal.activate`), after the log committed to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from audit.errors import IsthmusError, UsageError
from audit.identity import TLS_CERTIFICATE, Identity, load_identity, open_root, sealed_by
from audit.partner import PARTNER_SUFFIX, Partner, load_partners, read_partner

Stamp = tuple[int, int, int]
"""Of a file: time of its last change (ns), size, number; a file put in its place by a rename has another number."""


def stamp_of(path: Path) -> Stamp | None:
    """What changes when the file does; None while it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class View(Mapping[str, bytes]):
    """Certificates (PEM, one or more) by name, as ``read`` gives them at each look."""

    def __init__(self, read: Callable[[], Mapping[str, bytes]]) -> None:
        self._read = read

    def __getitem__(self, name: str) -> bytes:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


class CurrentPartners(Mapping[str, Partner]):
    """The partner files of a folder, as they are now.

    Args:
        folder: the partner files.
        told: hears, once for each change, why one was not taken up.

    Raises (on construction):
        UsageError: see :func:`audit.partner.load_partners`.
    """

    def __init__(self, folder: Path, told: Callable[[IsthmusError], None]) -> None:
        self._folder, self._told = folder, told
        self._stamps = self._look()
        self._known = load_partners(folder)
        self._files = {path: read_partner(path).name for path in self._stamps}

    def __getitem__(self, name: str) -> Partner:
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def _look(self) -> dict[Path, Stamp]:
        found = {path: stamp_of(path) for path in sorted(self._folder.glob(f"*{PARTNER_SUFFIX}"))}
        return {path: stamp for path, stamp in found.items() if stamp is not None}

    def refresh(self) -> frozenset[str]:
        """Read what changed; the names of partners of whom something else is trusted now."""
        stamps = self._look()
        if stamps == self._stamps:
            return frozenset()
        known = dict(self._known)
        for path in [path for path in self._files if path not in stamps]:
            name = self._files.pop(path)
            if name not in self._files.values():
                known[name] = _withdrawn(known[name])
        for path in [path for path, stamp in stamps.items() if self._stamps.get(path) != stamp or path not in self._files]:
            try:
                self._take(path, known)
            except UsageError as error:
                self._told(error)
        changed = frozenset(name for name in known if known[name] != self._known.get(name))
        self._stamps, self._known = stamps, known
        return changed

    def _take(self, path: Path, known: dict[str, Partner]) -> None:
        found = read_partner(path)
        if any(other != path and name == found.name for other, name in self._files.items()):
            raise UsageError(
                "partner.duplicate",
                f"{path} is a second partner file of {found.name!r}; the first is used.",
                remedy="Keep the one whose fingerprint you compared.",
            )
        former = self._files.get(path)
        if former is not None and former != found.name:
            known[former] = _withdrawn(known[former])
        self._files[path] = found.name
        before = known.get(found.name)
        if before is not None and (before.log_key, before.role) != (found.log_key, found.role):
            known[found.name] = _withdrawn(before)
            raise UsageError(
                "partner.other_keys",
                f"{path} names another log key or role of {found.name!r}: its certificates are not accepted any more.",
                remedy="Start this process again to take the new keys up.",
            )
        known[found.name] = found


class DataParties(Mapping[str, Partner]):
    """Of partners, the banks and platforms: whose jobs a coordinator runs."""

    def __init__(self, partners: Mapping[str, Partner]) -> None:
        self._partners = partners

    def __getitem__(self, name: str) -> Partner:
        found = self._partners[name]
        if found.role == "coordinator":
            raise KeyError(name)
        return found

    def __iter__(self) -> Iterator[str]:
        return (name for name, found in self._partners.items() if found.role != "coordinator")

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _withdrawn(partner: Partner) -> Partner:
    return replace(partner, certificate_pem=b"", next_certificate_pem=None)


def accepted(partner: Partner) -> str:
    """Which certificates are accepted of a partner, in words."""
    if not partner.trusted_pem:
        return "no certificate of it is accepted any more"
    return "its certificate is accepted" if partner.next_certificate_pem is None else "its two certificates are accepted"


@dataclass(frozen=True)
class Change:
    """What a refresh found: whether this process shows another certificate, and which partners are trusted otherwise."""

    own: bool
    partners: frozenset[str]

    def __bool__(self) -> bool:
        return self.own or bool(self.partners)


class Trust:
    """This participant's own identity and its partners, as they are now.

    Args:
        identity: as it was loaded at the start.
        keys, key_file: where it is, and what opens it.
        partners: the folder of partner files.
        told: hears, once for each change, why something was not taken up.

    Raises (on construction):
        UsageError: see :func:`audit.partner.load_partners`, :func:`audit.identity.open_root`.
    """

    def __init__(
        self, identity: Identity, *, keys: Path, key_file: Path | None, partners: Path, told: Callable[[IsthmusError], None]
    ) -> None:
        self._identity, self._keys, self._key_file, self._told = identity, keys, key_file, told
        # Held from the start: nobody is there later to type a passphrase, and a key file may have been taken away.
        self._root = open_root(keys, key_file=key_file)
        self._stamp = stamp_of(keys / TLS_CERTIFICATE)
        self.partners = CurrentPartners(partners, told)
        self.committed: Callable[[Identity], None] = lambda identity: None
        """Writes the commitment to a new certificate into the log; called before the certificate is used."""

    @property
    def identity(self) -> Identity:
        """With the certificate that is in use now."""
        return self._identity

    def own(self) -> View:
        """This participant's own certificate, by its name."""
        return View(lambda: {self._identity.name: self._identity.tls_certificate_pem})

    def pinned(self) -> View:
        """The certificates of the data parties by name: of every partner but coordinators."""
        parties = DataParties(self.partners)
        return View(lambda: {name: found.trusted_pem for name, found in parties.items()})

    def refresh(self) -> Change:
        """Look at the files, and take up what changed; what could not be is told.  A certificate that the log could not commit to
        is not used."""
        return Change(own=self._renew(), partners=self.partners.refresh())

    def _open(self) -> bytes | None:
        """What opens the keys.  Where they were sealed since the start, nobody can be asked for a passphrase."""
        if self._root is None and sealed_by(self._keys) == "passphrase":
            raise UsageError(
                "identity.locked",
                f"The keys in {self._keys} were sealed with a passphrase since this process started.",
                remedy="Start it again to have it use the new certificate.",
            )
        self._root = self._root or open_root(self._keys, key_file=self._key_file)
        return self._root

    def _renew(self) -> bool:
        stamp = stamp_of(self._keys / TLS_CERTIFICATE)
        if stamp is None or stamp == self._stamp:
            return False
        self._stamp, before = stamp, self._identity
        try:
            found = load_identity(self._keys, root=self._open())
            if (found.name, found.role, found.log_key.verifier) != (before.name, before.role, before.log_key.verifier):
                raise UsageError(
                    "identity.other_keys",
                    f"The keys in {self._keys} are another participant's, or have another log key: they are not taken up.",
                    remedy="Start this process again if that is meant.",
                )
            renewed = found.tls_certificate_pem != before.tls_certificate_pem
            if renewed:
                self.committed(found)
        except IsthmusError as error:
            self._told(error)
            return False
        self._identity = found
        return renewed
