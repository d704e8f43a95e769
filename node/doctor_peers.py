"""``doctor`` on the other side of a link: the version it runs and the time it has, told with an answer of its health service."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterator
from importlib.metadata import version
from typing import Literal

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from audit.partner import Partner
from node.doctor_report import Check
from node.transport.control import CONTROL_VERSION
from node.transport.opening import PROTOCOL_VERSION
from operations.health import PROTOCOL_KEY, TIME_KEY, VERSION_KEY

APART_WARN, APART_FAIL = 30.0, 300.0
"""Seconds between two clocks, after half of what the question took."""
_VERSION = re.compile(r"[0-9A-Za-z.+!-]{1,40}")


def told_by(channel: grpc.Channel, name: str, partner: Partner, *, seconds: float) -> Iterator[Check]:
    """Ask over a link that stands, and compare version and clock with this node's.

    Args:
        name: how the check of the link is called; these are called ``<name> version`` and ``<name> clock``.
        seconds: how long to wait for the answer.
    """
    asked = time.time()
    try:
        call = health_pb2_grpc.HealthStub(channel).Check.with_call(health_pb2.HealthCheckRequest(), timeout=seconds)[1]
    except grpc.RpcError:
        yield _silent(name, partner)
        return
    answered = time.time()
    told = {key: str(value) for key, value in call.initial_metadata() or ()}
    yield _version(name, partner, told.get(VERSION_KEY, ""), told.get(PROTOCOL_KEY, ""))
    try:
        theirs = float(told[TIME_KEY])
    except (KeyError, ValueError):
        return
    if not math.isfinite(theirs):
        return
    yield _clock(name, partner, theirs - (asked + answered) / 2, (answered - asked) / 2)


def _silent(name: str, partner: Partner) -> Check:
    return Check(
        f"{name} version",
        "warn",
        f"{partner.name} does not tell its version: an older one, or it is starting",
        f"Ask for it; this node runs {version('isthmus')}.",
        "peer.version_unknown",
    )


def _version(name: str, partner: Partner, theirs: str, protocol: str) -> Check:
    if not _VERSION.fullmatch(theirs) or not _VERSION.fullmatch(protocol):
        return _silent(name, partner)
    own, speaks = version("isthmus"), CONTROL_VERSION if partner.role == "coordinator" else PROTOCOL_VERSION
    both = f"{partner.name} runs {theirs} (protocol {protocol}), this node {own} (protocol {speaks})"
    if protocol != str(speaks):
        return Check(f"{name} version", "fail", both, "Update the older of the two.", "transport.protocol_version")
    return Check(f"{name} version", "ok", both)


def _clock(name: str, partner: Partner, ahead: float, slack: float) -> Check:
    apart = max(0.0, abs(ahead) - slack)
    detail = f"{partner.name} is {apart:.0f} seconds {'ahead of' if ahead > 0 else 'behind'} this node"
    if apart > APART_WARN:
        state: Literal["warn", "fail"] = "warn" if apart <= APART_FAIL else "fail"
        return Check(f"{name} clock", state, detail, "Set the clock that is wrong (for example by NTP).", "transport.clock")
    return Check(f"{name} clock", "ok", detail if apart >= 1 else f"{partner.name} has the same time to the second")
