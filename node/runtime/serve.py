"""A serving node: one process, one state folder, one stream to the coordinator, and a listener only where the configuration
names one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from audit.identity import Identity
from audit.opening import write_opening, write_renewal
from audit.partner import Partner
from audit.record import LogWriter
from audit.spec import JobSpec
from audit.trust import Change, Trust
from audit.witness import Witness
from node.config import NodeConfig, RelaySection
from node.errors import TransportError, UsageError
from node.identity import coordinator_of, own_identity
from node.limits import LIMITS, Limits
from node.policy import Policy, load_policy
from node.runtime.cosigning import CosignedLog
from node.runtime.engines import engine_of
from node.runtime.execution import StepLink
from node.runtime.jobs import Jobs
from node.runtime.journal import StepLabels
from node.runtime.leaving import leave
from node.runtime.listener import peer_server
from node.runtime.observe import SILENT, Observer
from node.runtime.parts import NodeParts
from node.runtime.renewing import Renewing
from node.runtime.store import SERVE_LOCK, Store
from node.runtime.watching import Watch
from node.transport.channel import PROTOCOL_VERSION, GrpcChannel
from node.transport.client import dial
from node.transport.control import ControlClient
from node.transport.options import TIMEOUTS, Timeouts
from node.transport.outage import OnWait
from node.transport.relay import meet
from node.transport.servicer import accept
from node.transport.session import Session
from node.transport.switchboard import Switchboard
from operations.logs import fault
from protos import peer_pb2

POLL_SECONDS = 0.3
"""How often the serving process looks for decisions made at the command line."""
STOP_SECONDS = 3.0
_ATTACH_SECONDS = 3.0

Notify = Callable[[str], None]


def route(spec: JobSpec, *, me: str, own_address: str, peer: Partner, relay: RelaySection) -> Literal["dial", "accept", "relay"]:
    """How this node comes to the peer's stream for a step of ``spec``: it dials, it waits for the peer to dial, or both dial the
    coordinator's relay.

    The side dials whose peer can be reached; when both can, the feature holder does; when neither can, the relay joins them.

    Raises:
        TransportError: ``transport.no_route`` when neither can and the configuration forbids the relay.
    """
    if peer.name in relay.always_with:
        return "relay"
    if own_address and peer.address:
        return "dial" if spec.feature_holder.name == me else "accept"
    if own_address or peer.address:
        return "dial" if peer.address else "accept"
    if relay.use == "never":
        raise TransportError(
            "transport.no_route",
            f"Neither this node nor {peer.name} has an address, so neither can dial the other, and node.toml forbids the relay.",
            remedy="Set listen and address in one node's node.toml and give its partner file to the other again, or leave"
            ' use = "never" out of [relay].',
        )
    return "relay"


@dataclass(frozen=True)
class PeerLinks:
    """Opens the stream of an attempt, or waits for it, whichever side this node is; or meets the peer at the relay."""

    current: Callable[[], Identity]
    """This node, with the certificate of now."""
    own_address: str
    partners: Mapping[str, Partner]
    board: Switchboard
    limits: Limits = LIMITS
    timeouts: Timeouts = TIMEOUTS
    relay: RelaySection = field(default_factory=RelaySection)
    notify: Notify = field(default=lambda line: None)
    told: set[str] = field(default_factory=set)
    """Jobs whose operator was told that they take the relay."""
    observer: Observer = SILENT
    dialled: weakref.WeakSet[Session] = field(default_factory=weakref.WeakSet)
    """Sessions whose streams this side begins."""

    @property
    def me(self) -> str:
        """This node's name."""
        return self.current().name

    def relink(self, change: Change) -> None:
        """After a change of certificates: begin anew the streams that were made with the former ones.  Sessions go on."""
        for session in list(self.dialled):
            if change.own or session.peer in change.partners or any(self._relays(name) for name in change.partners):
                session.relink()

    def _relays(self, name: str) -> bool:
        return name in self.partners and self.partners[name].role == "coordinator"

    def connect(self, labels: StepLabels, spec: JobSpec, stop: threading.Event, on_wait: OnWait) -> StepLink:
        """See ``node.runtime.execution.Connect``."""
        peer = self.partners[spec.peer_of(self.me).name]
        opening = peer_pb2.Open(protocol=PROTOCOL_VERSION, party=self.me, **labels.fields())
        link = self._open(labels, spec, peer, opening, stop, on_wait)
        self.observer.linked(link)
        return link

    def _open(
        self, labels: StepLabels, spec: JobSpec, peer: Partner, opening: peer_pb2.Open, stop: threading.Event, on_wait: OnWait
    ) -> GrpcChannel:
        way = route(spec, me=self.me, own_address=self.own_address, peer=peer, relay=self.relay)
        if way == "dial":
            link = dial(
                peer,
                self.current(),
                opening,
                limits=self.limits,
                timeouts=self.timeouts,
                stop=stop,
                on_wait=on_wait,
                latest=lambda: (self.partners[peer.name], self.current()),
            )
            self.dialled.add(link.session)
            return link
        if way == "accept":
            return accept(self.board, peer.name, opening, limits=self.limits, timeouts=self.timeouts, stop=stop, on_wait=on_wait)
        coordinator = self.partners[spec.coordinator]
        if labels.job not in self.told:
            self.told.add(labels.job)
            self.notify(f"job {labels.job[:12]}: frames to {peer.name} go, sealed, through the relay of {coordinator.name}")
        link = meet(
            coordinator,
            self.current(),
            peer,
            spec,
            opening,
            board=self.board,
            limits=self.limits,
            timeouts=self.timeouts,
            stop=stop,
            on_wait=on_wait,
            latest=lambda: (self.partners[coordinator.name], self.current()),
        )
        self.dialled.add(link.session)
        return link


@contextlib.contextmanager
def state_lock(folder: Path) -> Iterator[None]:
    """Hold the state folder for this process alone; the system lets go of it when the process ends, however it ends.

    Raises:
        UsageError: ``state.in_use``, ``state.unwritable``.
    """
    path = folder / SERVE_LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(
            "state.unwritable",
            f"The state folder {folder} cannot be written: {error.strerror}.",
            remedy="Give this user write access to it, or name another under `state` in node.toml.",
        ) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                "state.in_use",
                f"Another process serves the state folder {folder}.",
                remedy="Stop it first; two nodes with one state would use the same random numbers twice.",
            ) from None
        yield
    finally:
        os.close(handle)


def open_log(config: NodeConfig, identity: Identity, policy: Policy) -> LogWriter:
    """The node's log, with what runs, under which keys and which policy, as its first entries of this run."""
    log = LogWriter.open(config.state_folder / "log", key=identity.log_key, clock=lambda: datetime.now(UTC))
    write_opening(log, identity)
    log.append("policy", sha256=hashlib.sha256(config.policy_path.read_bytes()).hexdigest(), **policy_fields(policy, config))
    return log


def policy_fields(policy: Policy, config: NodeConfig) -> dict[str, Any]:
    """The bounds of the policy that an auditor checks jobs against."""
    limits = policy.limits
    filters = [clause.model_dump(mode="json", exclude_none=True) for clause in policy.filter]
    return {
        "minimum_intersection": limits.minimum_intersection,
        "key_bits_min": limits.key_bits_min,
        "rounds_max": limits.rounds_max,
        "bands_max": limits.bands_max,
        "small_keys": int(config.unsafe.small_keys),
        "short_order_keys": int("short-order" in limits.key_kinds),
        "retention": policy.retention.text,
        "filters": filters,
    }


def serve(
    config: NodeConfig,
    *,
    notify: Notify,
    stop: threading.Event,
    at_once: threading.Event | None = None,
    grace: float = 0.0,
    limits: Limits = LIMITS,
    timeouts: Timeouts = TIMEOUTS,
) -> None:
    """Serve until ``stop`` is set.

    Args:
        notify: prints one readable line, at once.
        at_once: set later, it cuts the waiting of a graceful stop short.
        grace: seconds that a running step may take to be done after ``stop``.

    Raises:
        UsageError, TransportError, VerificationError: why the node cannot start, or cannot ever attach to its coordinator.
    """
    control: ControlClient
    watch = Watch(config, notify, lambda: control)
    notify = watch.notify
    identity, policy = own_identity(config), load_policy(config.policy_path)
    trust = Trust(
        identity,
        keys=config.keys_folder,
        key_file=config.key_file,
        partners=config.partners_folder,
        told=lambda error: notify(fault(error)),
    )
    partners = trust.partners
    coordinator = coordinator_of(config, partners)
    with contextlib.ExitStack() as stack:
        stack.enter_context(state_lock(config.state_folder))
        store = Store(config.state_folder, identity.state_key)
        stack.callback(store.close)
        log = open_log(config, identity, policy)
        stack.callback(log.close)
        trust.committed = lambda renewed: write_renewal(log, renewed)
        cosigned = CosignedLog(
            log,
            Witness(config.state_folder / "log", key=identity.log_key, clock=lambda: datetime.now(UTC)),
            partners=partners,
            coordinator=coordinator.name,
            report=lambda report: control.report(report),
            notify=notify,
        )
        engine = engine_of(config)
        stack.callback(engine.close)
        board = Switchboard()
        timeouts = replace(timeouts, patience=float(policy.links.patience))
        links = PeerLinks(
            lambda: trust.identity,
            config.node.address or "",
            partners,
            board,
            limits,
            timeouts,
            relay=config.relay,
            notify=notify,
            observer=watch.metrics,
        )
        parts = NodeParts(
            config=config,
            policy=policy,
            identity=identity,
            partners=partners,
            store=store,
            log=cosigned,
            cosigning=cosigned,
            connect=links.connect,
            engine=engine,
            limits=limits,
            observer=watch.metrics,
        )
        jobs = Jobs(
            parts,
            report=lambda report: control.report(report),
            progress=lambda **fields: control.progress(**fields),
            notify=notify,
        )
        control = ControlClient(
            coordinator=coordinator,
            identity=identity,
            software=metadata.version("isthmus"),
            handle=jobs.handle,
            on_attach=jobs.on_attach,
            notify=notify,
            timeouts=timeouts,
            latest=lambda: (partners[coordinator.name], trust.identity),
        )
        jobs.recover()
        cosigned.checkpoint()
        watch.open(stack, jobs=store.job_counts, workers=engine.workers)
        served = peer_server(
            config,
            lambda: trust.identity,
            trust.pinned(),
            permit=jobs.permit,
            board=board,
            limits=limits,
            timeouts=timeouts,
            watch=watch,
        )
        if served is not None:
            server = served[0]
            stack.callback(lambda: server.stop(grace=0.5).wait(STOP_SECONDS))
            stack.callback(board.close)
        renewing = Renewing(
            trust,
            coordinator.name,
            control,
            links.relink,
            servicer=None if served is None else served[1],
            idle=lambda: not store.job_counts().get("running"),
            notify=notify,
        )
        control.start()
        stack.callback(control.stop)
        stack.callback(jobs.stop, STOP_SECONDS)
        _wait(config, control, jobs, stop, watch, renewing)
        leave(
            jobs,
            cosigned,
            grace=grace,
            give_up=STOP_SECONDS,
            at_once=at_once or threading.Event(),
            attached=lambda: control.connected,
            notify=notify,
        )


def _wait(config: NodeConfig, control: ControlClient, jobs: Jobs, stop: threading.Event, watch: Watch, renewing: Renewing) -> None:
    """Say that the node is ready, then act on decisions until told to stop."""
    control.attached.wait(_ATTACH_SECONDS)
    if control.fatal is not None:
        raise control.fatal
    listening = f"listening at {config.node.listen}" if config.node.listen else "no inbound port"
    attached = "attached to" if control.attached.is_set() else "waiting for"
    watch.notify(f"isthmus-node {config.name}: ready, {listening}, {attached} the coordinator {config.coordinator.partner}")
    while not stop.wait(POLL_SECONDS):
        if control.fatal is not None:
            raise control.fatal
        watch.beat()
        renewing.look()
        jobs.poll()
    watch.stopping()
    watch.notify(f"isthmus-node {config.name}: stopping")
