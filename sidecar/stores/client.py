"""redis-py's client, for work that is not per request."""

from typing import Any, Final

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from sidecar.redis_address import RedisAddress

TIMEOUT_S: Final = 5.0
RETRIES: Final = 2  # a command must not take long; redis-py retries for seconds by default
RETRY_S: Final = 0.1


def open_client(address: RedisAddress, *, text: bool = True) -> Any:
    """Open a client for the address' topology. Without `text`, replies are bytes.

    Raises redis-py's exceptions, as a cluster client reads the nodes at once.
    """
    options = {
        "decode_responses": text,
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
    } | address.options()
    if address.topology == "cluster":
        nodes = [ClusterNode(*node) for node in address.nodes]  # type: ignore[no-untyped-call]
        return RedisCluster(startup_nodes=nodes, require_full_coverage=False, **options)
    if address.topology == "sentinel":
        sentinel_options = {"socket_timeout": TIMEOUT_S} | address.sentinel_options()
        sentinel: Any = Sentinel(address.nodes, sentinel_kwargs=sentinel_options, **options)  # type: ignore[no-untyped-call]
        return sentinel.master_for(address.master)
    retry = Retry(ConstantBackoff(RETRY_S), RETRIES)
    if address.path:
        return Redis(unix_socket_path=address.path, retry=retry, **options)
    host, port = address.nodes[0]
    return Redis(host=host, port=port, retry=retry, **options)
