"""A client of the service, through Envoy: it reads why a call was refused.

Run it: python client.py 127.0.0.1:8080 free-key
Needs grpcio-status and googleapis-common-protos.
"""

import sys

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc.error_details_pb2 import ErrorInfo, QuotaFailure, RetryInfo
from grpc_status import rpc_status


def explain(error: grpc.RpcError) -> list[str]:
    """What the sidecar says of a refused call, a line for each detail."""
    status = rpc_status.from_call(error)
    lines = [f"{error.code().name}: {error.details()}"]
    for detail in status.details if status else ():
        for kind in (ErrorInfo, RetryInfo, QuotaFailure):
            message = kind()
            if detail.Unpack(message):
                lines.append(f"{kind.__name__}: {' '.join(str(message).split())}")
    return lines


def main(address: str, key: str) -> None:
    """Search until a call is refused."""
    with grpc.insecure_channel(address) as channel:
        search = channel.unary_unary(
            "/shop.v1.Catalog/Search",
            request_serializer=StringValue.SerializeToString,
            response_deserializer=StringValue.FromString,
        )
        try:
            for number in range(10):
                answer = search(StringValue(value=f"book {number}"), metadata=[("x-api-key", key)])
                print(answer.value)
        except grpc.RpcError as error:
            print("\n".join(explain(error)))


if __name__ == "__main__":
    main(*sys.argv[1:])
