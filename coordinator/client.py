"""The operator commands' side of the wire: mutual TLS with the coordinator's own certificate, pinned to itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from audit.errors import IsthmusError
from coordinator.config import CoordinatorConfig
from coordinator.errors import TransportError, UsageError
from protos import control_pb2, control_pb2_grpc, tls

R = TypeVar("R")
CALL_SECONDS = 20.0


class OperatorClient:
    """Calls to the running server."""

    def __init__(self, stub: control_pb2_grpc.OperatorStub, explain: Callable[[], IsthmusError]) -> None:
        self._stub, self._explain = stub, explain

    def submit(self, spec: bytes) -> str:
        """Submit a canonical specification; the job's identity."""
        request = control_pb2.SubmitRequest(spec=spec.decode())
        return str(self._call(lambda: self._stub.Submit(request, timeout=CALL_SECONDS)).job)

    def jobs(self) -> list[control_pb2.JobView]:
        """The newest jobs, newest first."""
        return list(self._call(lambda: self._stub.Jobs(control_pb2.JobsRequest(), timeout=CALL_SECONDS)).jobs)

    def show(self, job: str) -> control_pb2.JobView:
        """One job, by a unique beginning of its hash."""
        return self._call(lambda: self._stub.Show(control_pb2.ShowRequest(job=job), timeout=CALL_SECONDS))

    def cancel(self, job: str) -> control_pb2.JobView:
        """Give a job up."""
        return self._call(lambda: self._stub.Cancel(control_pb2.CancelRequest(job=job), timeout=CALL_SECONDS))

    def watch(self, job: str) -> Iterator[control_pb2.JobView]:
        """One job, again whenever something changed, until it has ended."""
        stream = self._stub.Watch(control_pb2.ShowRequest(job=job))
        try:
            while (view := self._call(lambda: next(stream, None))) is not None:
                yield view
        finally:
            stream.cancel()

    def _call(self, call: Callable[[], R]) -> R:
        try:
            return call()
        except grpc.RpcError as error:
            raise self._translate(error) from None

    def _translate(self, error: grpc.RpcError) -> IsthmusError:
        details = error.details() or ""
        try:
            told = json.loads(details)
            return UsageError(str(told["code"]), str(told["message"]), remedy=str(told["remedy"]))
        except (ValueError, KeyError, TypeError):
            pass
        if error.code() is grpc.StatusCode.UNAVAILABLE:
            return self._explain()
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return TransportError("transport.timeout", "The coordinator did not answer in time.", remedy="Look at its output.")
        return TransportError("transport.closed", f"The coordinator ended the call ({error.code().name.lower()}).")


@contextmanager
def connect(config: CoordinatorConfig) -> Iterator[OperatorClient]:
    """A client of the server that runs with this configuration.

    Raises:
        TransportError: ``transport.*`` from any call, when the server cannot be reached or is not this coordinator.
    """
    identity, address = config.identity(), config.dial_address()
    certificate = identity.tls_certificate_pem

    def explain() -> IsthmusError:
        found = tls.explain_failure(address, server_name=identity.name, server_certificate_pem=certificate)
        remedy = found.remedy
        if found.code == "transport.unreachable":
            remedy = "Start it with `isthmus-coordinator serve`."
        return TransportError(found.code, found.message, remedy=remedy)

    try:
        channel = tls.channel(
            address,
            server_name=identity.name,
            server_certificate_pem=certificate,
            key_pem=identity.tls_key_pem,
            certificate_pem=certificate,
        )
    except tls.TlsError as error:
        raise TransportError(error.code, error.message, remedy=error.remedy) from None
    with channel:
        yield OperatorClient(control_pb2_grpc.OperatorStub(channel), explain)
