"""The decide port's gRPC: Envoy's external authorization and its access log service.

The only room that imports grpc and google.protobuf, which are the optional extra `grpc`.
"""

import os

# The library writes to stderr what the sidecar reports as an error of its own.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
