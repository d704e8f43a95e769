"""The coordinator: directs the rounds, blind."""

import os

# gRPC writes its own lines to standard error, and reads this once, when it is first imported: what went wrong is told by
# our own errors.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
