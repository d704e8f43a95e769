"""``[metrics]``: where the endpoint for monitoring listens.  It speaks plain HTTP, so only on loopback unless more is asked for."""

from __future__ import annotations

import ipaddress
from typing import Annotated

from pydantic import StringConstraints

from audit.errors import UsageError
from audit.strict_toml import Strict


class MetricsSection(Strict):
    """``[metrics]``: without ``listen`` there is no endpoint."""

    listen: Annotated[str, StringConstraints(max_length=320)] | None = None
    expose: bool = False


def check_exposure(section: MetricsSection) -> tuple[str, int] | None:
    """Host and port to listen at, None where there is to be no endpoint.

    Raises:
        UsageError: ``metrics.bad_address``; ``metrics.not_loopback``: another address than loopback's without ``expose = true``.
    """
    if section.listen is None:
        return None
    host, _, port = section.listen.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(
            "metrics.bad_address",
            "`listen` under [metrics] is not IP:PORT.",
            remedy='Write, for example, listen = "127.0.0.1:9464"; a host name could come to mean another machine.',
        )
    if not address.is_loopback and not section.expose:
        raise UsageError(
            "metrics.not_loopback",
            f"`listen` under [metrics] is {section.listen}, which other machines may reach, and the endpoint has no encryption.",
            remedy='Use "127.0.0.1:9464" and let an agent on this machine scrape it; or add expose = true if the network is yours.',
        )
    return str(address), int(port)
