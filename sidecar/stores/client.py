"""redis-py's client and its errors, for work that is not per request."""

import ssl
from typing import Any, Final

from redis import Redis
from redis.backoff import ConstantBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    RedisClusterException,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from sidecar.errors import StoreUnavailable
from sidecar.redis_address import RedisAddress
from sidecar.stores.connection.refusals import (
    EXPECTS_TLS,
    WRONG_CREDENTIALS,
    for_command,
    hint_of,
    tls_problem,
    what_failed,
)

FAILURES: Final = (RedisError, RedisClusterException, OSError, UnicodeError)

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


def unavailable(address: RedisAddress, error: BaseException) -> StoreUnavailable:
    """The error of a command whose client failed with one of `FAILURES`."""
    return StoreUnavailable(for_command(_problem(address, error)))


def _problem(address: RedisAddress, error: BaseException) -> str:
    where = address.path or ", ".join(map(str, address.nodes))
    if isinstance(error, MasterNotFoundError):
        return f'{where}: no sentinel names the master "{address.master}"'
    if isinstance(error, AuthenticationError):
        hint = WRONG_CREDENTIALS if "WRONGPASS" in str(error) or "invalid" in str(error) else ""
        return f"{where}: Redis refused the connection: {error}{hint}"
    if isinstance(error, ResponseError):
        return f"{where}: Redis refused the command: {error}{_hint(error)}"
    if isinstance(error, UnicodeDecodeError):
        return f"{where}: a value in Redis is not UTF-8"
    cause = _root(error)
    if isinstance(cause, ssl.SSLError):
        return f"{where}: {tls_problem(cause)}"
    if len(address.nodes) > 1:
        where += ": each"
    if cause is not None:
        return f"{where} {what_failed(cause)}{hint_of(cause, tls=address.tls)}"
    if isinstance(error, RedisConnectionError) and "closed by server" in str(error):
        hint = "" if address.tls or address.path else EXPECTS_TLS
        return f"{where} {what_failed(ConnectionResetError())}{hint}"
    if isinstance(error, InvalidResponse):
        return f"{where} does not speak the protocol of Redis"
    return f"{where}: {error}"


def _root(error: BaseException | None) -> OSError | UnicodeError | None:
    """The error of the system behind one of redis-py's."""
    while error is not None:
        if isinstance(error, RedisTimeout):
            return TimeoutError()
        if isinstance(error, OSError | UnicodeError):
            return error
        error = error.__cause__ or error.__context__
    return None


def _hint(error: ResponseError) -> str:
    text = str(error)
    if "NOPERM" in text or isinstance(error, NoPermissionError):
        return "; give this user the rights in docs/reference/redis.md"
    if text.startswith("WRONGTYPE"):
        return "; set another --redis-prefix, if other programs use this one"
    return "; read the log of Redis"
