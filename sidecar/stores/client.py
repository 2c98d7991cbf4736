"""redis-py's own client, for what is not per request."""

from typing import Any, Final

from redis import Redis
from redis.cluster import ClusterNode, RedisCluster
from redis.sentinel import Sentinel

from sidecar.redis_address import RedisAddress

TIMEOUT_S: Final = 5.0


def open_client(address: RedisAddress, *, text: bool = True) -> Any:
    """A client for each topology; its replies are text, or else bytes. Raises what redis-py
    raises: a cluster is asked for its nodes at once."""
    options = {
        "decode_responses": text,
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
    } | address.options()
    if address.topology == "cluster":
        nodes = [ClusterNode(*node) for node in address.nodes]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    if address.topology == "sentinel":
        asked = {"socket_timeout": TIMEOUT_S} | address.sentinel_options()
        sentinel: Any = Sentinel(address.nodes, sentinel_kwargs=asked, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.master)
    if address.path:
        return Redis(unix_socket_path=address.path, **options)
    host, port = address.nodes[0]
    return Redis(host=host, port=port, **options)
