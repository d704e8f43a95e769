"""``isthmus-node doctor``: everything that a job will need, looked at one by one before it is needed."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import grpc

from audit.identity import Identity
from audit.partner import Partner
from node.config import NodeConfig, load_config, parse_address
from node.data.report import examine
from node.doctor_certificates import accepts_next, own_certificate, partner_validity
from node.doctor_engine import engine
from node.doctor_filters import filters
from node.doctor_peers import told_by
from node.doctor_report import Check, failed
from node.doctor_secrets import core_dumps, encryption, folders
from node.errors import IsthmusError
from node.identity import coordinator_of, known_partners, own_identity
from node.policy import Policy, load_policy
from node.runtime.retention import cost
from node.runtime.spill import scratch_of_command
from protos import tls

CONNECT_SECONDS = 5.0
DISK_WARN_BYTES = 2 * 2**30
DISK_FAIL_BYTES = 200 * 2**20
EARLIEST_CLOCK = datetime(2025, 1, 1, tzinfo=UTC)
"""A clock before this is not set: the software is younger."""
CLOCK_SLACK = timedelta(minutes=5)

PATIENCE_LOW = 30

Clock = Callable[[], datetime]


def _utc_now() -> datetime:
    return datetime.now(UTC)


def diagnose(config_path: Path, *, clock: Clock = _utc_now) -> list[Check]:
    """Run every check that the ones before it allow.  Nothing is changed."""
    try:
        config = load_config(config_path)
    except IsthmusError as error:
        return [failed("configuration", error)]
    checks = [Check("configuration", "ok", f"{config.path}: {config.role} {config.name}"), *_secrets_in_config(config)]
    checks += _policy(config)
    identity: Identity | None = None
    try:
        identity = own_identity(config)
        checks.append(Check("keys", "ok", f"{config.keys_folder}: readable by this user alone"))
        checks += encryption(config)
        checks += own_certificate(identity, clock())
    except IsthmusError as error:
        checks.append(failed("keys", error))
    checks += folders(config)
    checks.append(core_dumps())
    checks += _clock(config, clock())
    checks.append(_disk(config))
    checks += _scratch(config)
    checks += engine(config)
    checks += _retention(config)
    checks += filters(config, clock())
    try:
        partners = known_partners(config)
        checks += _partners(config, partners, identity, clock())
        checks += _links(config, partners)
    except IsthmusError as error:
        checks.append(failed("partners", error))
    checks.append(_listen(config, identity))
    checks += [_dataset(config, name) for name in (dataset.name for dataset in config.dataset)]
    if not config.dataset:
        checks.append(Check("data sets", "warn", "none is configured", "Add a [[dataset]] to node.toml; its comments show one."))
    return checks


def _secrets_in_config(config: NodeConfig) -> Iterator[Check]:
    """A password in the configuration is for this user alone to read."""
    if config.unsafe.small_keys:
        yield Check(
            "unsafe", "warn", "unsafe.small_keys is set: keys that protect nothing are accepted", "Remove it outside tests."
        )
    mode = config.path.stat().st_mode
    for dataset in config.dataset:
        uri = dataset.uri.get_secret_value() if dataset.uri is not None else ""
        if "@" in uri and ":" in urlsplit(uri).netloc.rpartition("@")[0] and mode & 0o077:
            yield Check(
                "password",
                "warn",
                f"{config.path} holds the password of {dataset.name!r} and can be read by others",
                f"Run `chmod 600 {config.path}`, or keep the password in ~/.pgpass.",
            )


def _policy(config: NodeConfig) -> Iterator[Check]:
    try:
        policy = load_policy(config.policy_path)
    except IsthmusError as error:
        yield failed("policy", error)
        return
    datasets = {clause.name for clause in policy.dataset} | {rule.dataset for rule in policy.auto_approve}
    datasets |= {clause.dataset for clause in policy.filter}
    unknown = sorted(datasets - {dataset.name for dataset in config.dataset})
    if unknown:
        yield Check(
            "policy",
            "warn",
            f"it names data sets that are not configured: {', '.join(unknown)}",
            "Correct the name or add the [[dataset]].",
        )
    strangers = _strangers(config, policy)
    if strangers:
        yield Check(
            "policy",
            "warn",
            f"it names partners of which no partner file is here: {', '.join(strangers)}",
            "Correct the name, or add the partner's file with `isthmus-node partner add FILE`.",
        )
    if not unknown and not strangers:
        yield Check("policy", "ok", str(config.policy_path))


def _strangers(config: NodeConfig, policy: Policy) -> list[str]:
    """Partners that the policy names and no partner file; none when a file cannot be read, which is another check's to tell."""
    named = {rule.partner for rule in policy.auto_approve} | {clause.partner for clause in policy.filter}
    for clause in policy.dataset:
        named.update(clause.partners or [])
    if policy.partners.allow != "added":
        named.update(policy.partners.allow)
    try:
        return sorted(named - {partner.name for partner in known_partners(config).values() if partner.role != "coordinator"})
    except IsthmusError:
        return []


def _clock(config: NodeConfig, now: datetime) -> Iterator[Check]:
    """The log must not go back in time, and certificates have dates."""
    if now < EARLIEST_CLOCK:
        yield Check("clock", "fail", f"it says {now:%Y-%m-%d %H:%M} UTC", "Set the clock (for example by NTP).", "transport.clock")
        return
    newest = max(
        (datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in config.state_folder.glob("**/*") if path.is_file()),
        default=now,
    )
    if newest > now + CLOCK_SLACK:
        yield Check(
            "clock",
            "fail",
            f"it says {now:%Y-%m-%d %H:%M} UTC, and files in {config.state_folder} are from {newest:%Y-%m-%d %H:%M}",
            "Set the clock: the log must not go back in time.",
            "transport.clock",
        )
        return
    yield Check("clock", "ok", f"{now:%Y-%m-%d %H:%M} UTC")


def _disk(config: NodeConfig) -> Check:
    folder = config.state_folder
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    text = f"{free / 2**30:.1f} GiB free for {config.state_folder}"
    if free < DISK_FAIL_BYTES:
        return Check("disk", "fail", text, "Free some space: a job's steps are stored there.", "node.disk_full")
    return Check("disk", "warn" if free < DISK_WARN_BYTES else "ok", text)


def _scratch(config: NodeConfig) -> Iterator[Check]:
    """A folder of its own for rows that are too many for memory; nothing is made there, as this may be another user."""
    if config.node.scratch is None:
        return
    folder = config.scratch_folder
    there = folder
    while not there.exists():
        there = there.parent
    if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK)):
        what = f"{folder} cannot be {'written to' if there == folder else 'made'}"
        yield Check("scratch", "fail", what, f"Give this user the right to write in {there}, or name another.", "state.scratch")
        return
    free = shutil.disk_usage(there).free
    yield Check("scratch", "warn" if free < DISK_WARN_BYTES else "ok", f"{free / 2**30:.1f} GiB free for {folder}")


def _retention(config: NodeConfig) -> Iterator[Check]:
    """What replays cost on this disk, and what the policy says of it."""
    try:
        policy = load_policy(config.policy_path).retention
    except IsthmusError:
        return  # the check of the policy tells
    says = {"none": "nothing is kept", "always": "always"}.get(policy.text, f"{policy.text} days after a job's end")
    held = cost(config.state_folder)
    parts = f"data sets {size_text(held.tables)}, messages {size_text(held.messages)}, seeds {size_text(held.seeds)}"
    jobs = f"{held.jobs} job{'' if held.jobs == 1 else 's'}"
    yield Check("retention", "ok", f"for replays: {says}; on disk now {size_text(held.total)} of {jobs} ({parts})")


def size_text(count: int) -> str:
    """A number of bytes for people: ``512 B``, ``1.5 KiB``, ``3.2 GiB``."""
    value, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def _partners(config: NodeConfig, partners: Mapping[str, Partner], identity: Identity | None, now: datetime) -> Iterator[Check]:
    try:
        coordinator: Partner | None = coordinator_of(config, partners)
    except IsthmusError as error:
        coordinator = None
        yield failed("coordinator", error)
    if coordinator is not None and identity is not None:
        yield from _reach("coordinator", coordinator, config, identity, now, unreachable="fail")
    others = [partner for partner in partners.values() if partner.role not in ("coordinator", config.role)]
    if not others:
        yield Check("partners", "warn", "no other party was added", "Add its file with `isthmus-node partner add FILE`.")
    for partner in others:
        name = f"partner {partner.name}"
        apart = not partner.address and config.node.address is None
        if partner.name in config.relay.always_with or (apart and config.relay.use == "auto"):
            validity = partner_validity(name, partner, now)
            why = "neither it nor this node has an address" if apart else "node.toml says so"
            yield replace(validity, detail=f"{validity.detail}; {why}: frames go, sealed, through the coordinator's relay")
        elif partner.address and identity is not None:
            yield from _reach(name, partner, config, identity, now, unreachable="warn")
        elif apart:
            yield Check(
                name,
                "fail",
                "neither it nor this node has an address, and node.toml forbids the relay, so no link can be made",
                "One of the two sets node.listen and node.address and sends its partner file again, or relay.use is left out.",
                "transport.no_route",
            )
        else:
            yield partner_validity(name, partner, now)


def _reach(
    name: str, partner: Partner, config: NodeConfig, identity: Identity, now: datetime, *, unreachable: Literal["warn", "fail"]
) -> Iterator[Check]:
    """Dial a partner: the link must really be TLS, the certificate presented the pinned one; then ask what it runs and its time."""
    validity = partner_validity(name, partner, now)
    if validity.state == "fail":
        yield validity
        return
    found = tls.explain_failure(
        partner.address, server_name=partner.name, server_certificate_pem=partner.trusted_pem, timeout=CONNECT_SECONDS
    )
    if found.code != "transport.not_accepted":
        wrong = found.code in ("transport.wrong_certificate", "transport.not_tls")
        yield Check(name, "fail" if wrong else unreachable, found.message, found.remedy, found.code)
        return
    # The very link that a job would use; nothing of a job is said over it.
    channel = tls.channel(
        partner.address,
        server_name=partner.name,
        server_certificate_pem=partner.trusted_pem,
        key_pem=identity.tls_key_pem,
        certificate_pem=identity.tls_certificate_pem,
    )
    try:
        grpc.channel_ready_future(channel).result(timeout=CONNECT_SECONDS)
        detail = f"{partner.address} speaks {_spoken(partner)} with the pinned certificate and accepts this node's"
        yield Check(name, validity.state, f"{detail}; {validity.detail}", validity.remedy, validity.code)
        yield from told_by(channel, name, partner, seconds=CONNECT_SECONDS)
        if identity.next_certificate_pem is not None:
            yield accepts_next(name, partner, config, seconds=CONNECT_SECONDS)
    except grpc.FutureTimeoutError:
        yield Check(name, "fail", found.message, found.remedy, found.code)
    finally:
        channel.close()


def _spoken(partner: Partner) -> str:
    try:
        return tls.probe(partner.address, server_name=partner.name, timeout=CONNECT_SECONDS)[1].replace("TLSv", "TLS ")
    except tls.TlsError:
        return "TLS"


def _links(config: NodeConfig, partners: Mapping[str, Partner]) -> Iterator[Check]:
    """Whether what configuration and policy say of links can be meant so."""
    strangers = sorted(set(config.relay.always_with) - {name for name, found in partners.items() if found.role != "coordinator"})
    if strangers:
        yield Check(
            "relay",
            "warn",
            f"relay.always_with names nodes of which no partner file is here: {', '.join(strangers)}",
            "Correct the name, or add the node's file with `isthmus-node partner add FILE`.",
            "partner.unknown",
        )
    try:
        patience = load_policy(config.policy_path).links.patience
    except IsthmusError:
        return  # the check of the policy tells
    if patience < PATIENCE_LOW:
        yield Check(
            "links",
            "warn",
            f"a step waits {patience} seconds for a partner that is away: less than its restart takes",
            f"Set links.patience in {config.policy_path.name} to some minutes (600 when left out).",
            "policy.patience",
        )


def _listen(config: NodeConfig, identity: Identity | None) -> Check:
    if config.node.listen is None:
        return Check("listen", "ok", "no port is opened: this node dials its partners")
    host, port = parse_address(config.node.listen)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        return Check("listen", "ok", f"{config.node.listen} is free")
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            return Check(
                "listen",
                "fail",
                f"{config.node.listen} cannot be opened: {error.strerror or 'unknown host'}",
                "Correct node.listen: an address of this machine, and a port this user may open.",
                "transport.cannot_listen",
            )
    if identity is not None:
        local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        try:
            served_at = f"[{local}]:{port}" if ":" in local else f"{local}:{port}"
            presented = tls.probe_certificate(served_at, server_name=config.name, timeout=CONNECT_SECONDS)
        except tls.TlsError:
            presented = b""
        if presented == tls.to_der(identity.tls_certificate_pem):
            return Check("listen", "ok", f"{config.node.listen} is served by this node")
    return Check(
        "listen",
        "fail",
        f"{config.node.listen} is in use by another program",
        "Stop that program, or choose another port in node.listen and node.address.",
        "transport.port_in_use",
    )


def _dataset(config: NodeConfig, name: str) -> Check:
    with scratch_of_command(config.scratch_folder) as scratch:
        report = examine(config.dataset_named(name), scratch)
    label = f"data set {name}"
    grave = [problem for problem in report.problems if problem.grave]
    if grave:
        more = f" ({len(grave) - 1} more: see `isthmus-node datasets`)" if len(grave) > 1 else ""
        return Check(label, "fail", grave[0].message + more, grave[0].remedy, grave[0].code)
    if report.problems:
        first = report.problems[0]
        return Check(label, "warn", first.message, first.remedy, first.code)
    return Check(label, "ok", f"{report.rows:,} rows, {len(report.columns)} columns offered")
