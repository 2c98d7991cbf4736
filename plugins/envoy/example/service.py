"""A gRPC service behind Envoy: it knows no plan, and reads who calls from the metadata.

Run it: python service.py 127.0.0.1:50051
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
from google.protobuf.wrappers_pb2 import StringValue


def search(request: StringValue, context: grpc.ServicerContext) -> StringValue:
    """Answer one message. The word "broken" makes the service fail."""
    if request.value == "broken":
        context.abort(grpc.StatusCode.UNAVAILABLE, "the catalog is closed")
    metadata = dict(context.invocation_metadata())
    return StringValue(value=f"{request.value} for {metadata['x-account-id']}")


def watch(requests: Iterator[StringValue], _context: grpc.ServicerContext) -> Iterator[StringValue]:
    """Answer each message of a stream as it comes."""
    for request in requests:
        yield StringValue(value=f"seen {request.value}")


def serve(address: str) -> tuple[grpc.Server, int]:
    """Start the service. Returns it with its port."""
    server = grpc.server(ThreadPoolExecutor(8))
    codec = {
        "request_deserializer": StringValue.FromString,
        "response_serializer": StringValue.SerializeToString,
    }
    methods = {
        "Search": grpc.unary_unary_rpc_method_handler(search, **codec),
        "Watch": grpc.stream_stream_rpc_method_handler(watch, **codec),
    }
    catalog = grpc.method_handlers_generic_handler("shop.v1.Catalog", methods)
    server.add_generic_rpc_handlers((catalog,))
    port = server.add_insecure_port(address)
    server.start()
    return server, port


if __name__ == "__main__":
    serve(sys.argv[1])[0].wait_for_termination()
