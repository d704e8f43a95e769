"""The operators' gRPC service: called by the coordinator's own command line, on its own machine, with its own certificate.

These callers are told an error's message and remedy as well as its code.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping

import grpc

from audit.errors import IsthmusError
from coordinator.errors import PeerError, TransportError
from coordinator.runner import Runner
from coordinator.service import INTERNAL, abort, caller
from coordinator.wire import job_view
from protos import control_pb2, control_pb2_grpc

_log = logging.getLogger("isthmus.coordinator")

WATCH_SECONDS = 0.2
"""Shortest time between two views of one watcher."""


class OperatorService(control_pb2_grpc.OperatorServicer):
    """The operators' side: the coordinator's own certificate and no other."""

    def __init__(self, runner: Runner, own: Mapping[str, bytes]) -> None:
        self._runner, self._own = runner, own

    def Submit(self, request: control_pb2.SubmitRequest, context: grpc.ServicerContext) -> control_pb2.SubmitReply:
        """Take a job in."""
        with _Answer(context, self._own):
            return control_pb2.SubmitReply(job=self._runner.submit(request.spec.encode()).identity)

    def Jobs(self, request: control_pb2.JobsRequest, context: grpc.ServicerContext) -> control_pb2.JobsReply:
        """The newest jobs."""
        with _Answer(context, self._own):
            return control_pb2.JobsReply(jobs=[job_view(job, self._runner) for job in self._runner.recent()])

    def Show(self, request: control_pb2.ShowRequest, context: grpc.ServicerContext) -> control_pb2.JobView:
        """One job."""
        with _Answer(context, self._own):
            return job_view(self._runner.find(request.job), self._runner)

    def Cancel(self, request: control_pb2.CancelRequest, context: grpc.ServicerContext) -> control_pb2.JobView:
        """Give one job up."""
        with _Answer(context, self._own):
            return job_view(self._runner.cancel(request.job), self._runner)

    def Watch(self, request: control_pb2.ShowRequest, context: grpc.ServicerContext) -> Iterator[control_pb2.JobView]:
        """One job, again whenever something has changed, until it has ended."""
        with _Answer(context, self._own):
            runner, seen = self._runner, -1
            identity = runner.find(request.job).identity
            while context.is_active() and not runner.stopping:
                with runner.changed:
                    if runner.version == seen:
                        runner.changed.wait(1.0)
                    changed, seen = runner.version != seen, runner.version
                    job = runner.find(identity)
                    view = job_view(job, runner)
                if changed:
                    yield view
                if job.ended:
                    return
                time.sleep(WATCH_SECONDS)


class _Answer:
    """Around every operator method: who may call, and how an error is told."""

    def __init__(self, context: grpc.ServicerContext, own: Mapping[str, bytes]) -> None:
        self._context, self._own = context, own

    def __enter__(self) -> None:
        try:
            caller(self._context, self._own)
        except TransportError as error:
            refused = PeerError("control.not_an_operator", error.message)
            abort(self._context, refused, refused.code)

    def __exit__(self, _kind: object, error: object, _trace: object) -> None:
        if isinstance(error, IsthmusError):
            details = json.dumps({"code": error.code, "message": error.message, "remedy": error.remedy})
            abort(self._context, error, details)
        if isinstance(error, Exception):  # gRPC would tell the caller its text
            _log.error("an operator's call ended with a fault of isthmus", exc_info=error)
            kind = type(error).__name__
            remedy = "Look at the server's output, and report it."
            details = json.dumps({"code": INTERNAL, "message": f"internal error: {kind}.", "remedy": remedy})
            self._context.abort(grpc.StatusCode.INTERNAL, details)
