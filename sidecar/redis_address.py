"""Parses the URL of `--redis` into a value, without resolving names or reading files.

    redis://[USER:PASSWORD@]HOST:PORT/NUMBER                one server; rediss:// for TLS
    unix://[USER:PASSWORD@]/PATH?db=NUMBER                  one server on a unix socket
    redis+sentinel://…HOST:PORT,HOST:PORT/MASTER/NUMBER     the master that these sentinels name
    redis+cluster://…HOST:PORT,HOST:PORT                    the cluster of these nodes

User and password are percent-encoded. The query has TLS options with redis-py's names.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote

from sidecar.addresses import Address, UnixPath

Topology = Literal["single", "sentinel", "cluster"]

_TOPOLOGIES: Final[dict[str | None, Topology]] = {
    None: "single",
    "sentinel": "sentinel",
    "cluster": "cluster",
}
FORMS: Final = (
    "write redis://[USER:PASSWORD@]HOST:PORT/NUMBER, rediss://… for TLS, unix:///PATH?db=NUMBER, "
    "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/NUMBER or redis+cluster://HOST:PORT,HOST:PORT"
)
_URL: Final = re.compile(
    r"(?P<kind>unix|rediss?(\+(?P<topology>sentinel|cluster))?)://"
    r"((?P<user>[^/?#@:]*)(:(?P<password>[^/?#]*))?@)?"
    r"(?P<nodes>[^/?#@]*)(?P<path>/[^?#]*)?(\?(?P<query>[^#]*))?"
)
_NODE: Final = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s\[\]:,]+))(:(?P<port>\d+))?")
# A mark that ends the hosts, before the @ that ends the password: it belongs to the password.
_SPECIAL: Final = re.compile(r"://[^@]*[/?#\s][^@]*@")
_OPTIONS: Final = re.compile(r"^unix:|\?[a-z_]+=")
_PERCENT_ENCODE: Final = (
    "not a Redis URL: user or password has a special character; percent-encode it: "
    "%2F for /, %3F for ?, %23 for #, %25 for %, %40 for @"
)
_PATHS: Final = {
    "single": re.compile(r"/?(?P<master>)(?P<number>[0-9]*)"),
    "sentinel": re.compile(r"/(?P<master>[A-Za-z0-9._-]+)(/(?P<number>[0-9]*))?"),
    "cluster": re.compile(r"/?(?P<master>)(?P<number>0?)"),
}
_PORTS: Final = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_SENTINEL: Final = ("sentinel_username", "sentinel_password")
_BOOLEANS: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """The address of Redis, with credentials and TLS options. `str()` has no credentials."""

    topology: Topology
    nodes: tuple[Address, ...]  # the server, sentinels or cluster nodes; () for a path
    path: str = ""  # of a unix socket
    master: str = ""  # its name in the sentinels' configuration
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    ssl_ca_certs: str | None = None  # a PEM file; None: the system's authorities
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True

    @property
    def at(self) -> Address | UnixPath:
        """The server, or the first node."""
        return UnixPath(self.path) if self.path else self.nodes[0]

    @property
    def has_password(self) -> bool:
        """Whether the URL has a password, of Redis or of the sentinels."""
        return bool(self.password or self.sentinel_password)

    def __str__(self) -> str:
        if self.path:
            return str(self.at)
        scheme = "rediss" if self.tls else "redis"
        kind = "" if self.topology == "single" else f"+{self.topology}"
        nodes = ",".join(map(str, self.nodes))
        master = f"/{self.master}" if self.master else ""
        number = f"/{self.database}" if self.database else ""
        return f"{scheme}{kind}://{nodes}{master}{number}"

    def options(self) -> dict[str, Any]:
        """Options for redis-py's clients, without hosts and ports."""
        options = {"username": self.username, "password": self.password, "db": self.database}
        return {name: value for name, value in options.items() if value} | self._tls_options()

    def sentinel_options(self) -> dict[str, Any]:
        """Options for redis-py's connections to the sentinels."""
        options = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {name: value for name, value in options.items() if value} | self._tls_options()

    def _tls_options(self) -> dict[str, Any]:
        if not self.tls:
            return {}
        options = {name: getattr(self, name) for name in _TLS}
        return {"ssl": True} | {name: value for name, value in options.items() if value is not None}


def redis_address(text: str) -> RedisAddress:
    """Parse a Redis URL. Raises ValueError.

    The error does not repeat the text, as a password may be anywhere in it.
    """
    try:
        return _parse(text)
    except ValueError:
        if _SPECIAL.search(text) and not _OPTIONS.search(text):
            raise ValueError(_PERCENT_ENCODE) from None
        raise


def _parse(text: str) -> RedisAddress:
    url = _URL.fullmatch(text)
    if url is None:
        raise ValueError(f"not a Redis URL; {FORMS}")
    topology = _TOPOLOGIES[url["topology"]]
    query = _query(url["query"] or "", _allowed(url["kind"], topology))
    database = query.pop("db", None)
    path = master = ""
    if url["kind"] == "unix":
        path = unquote(url["path"] or "")
        if url["nodes"] or len(path) < 2:
            raise ValueError(f"not a Redis URL: the socket path is missing; {FORMS}")
    else:
        master, number = _path(topology, url["path"] or "")
        database = database or number
    return RedisAddress(
        topology,
        () if path else _nodes(topology, url["nodes"]),
        path,
        master,
        int(database or 0),
        unquote(url["user"] or "") or None,
        unquote(url["password"] or "") or None,
        tls=url["kind"].startswith("rediss"),
        **query,
    )


def _nodes(topology: Topology, text: str) -> tuple[Address, ...]:
    nodes = []
    for one in text.split(","):
        node = _NODE.fullmatch(one)
        port = int((node and node["port"]) or _PORTS[topology])
        if node is None or not 0 < port < 65_536:
            raise ValueError(f"not a Redis URL: one of the hosts is not HOST:PORT; {FORMS}")
        nodes.append(Address(node["six"] or node["host"], port))
    if topology == "single" and len(nodes) > 1:
        raise ValueError(
            "several hosts need a cluster or sentinels; write redis+cluster://… or "
            "redis+sentinel://…/MASTER"
        )
    return tuple(nodes)


def _path(topology: Topology, text: str) -> tuple[str, str]:
    path = _PATHS[topology].fullmatch(text)
    if path is not None:
        return path["master"], path["number"] or ""
    if topology == "sentinel":
        raise ValueError("not a Redis URL: the master's name is missing; write …HOST:PORT/MASTER")
    if topology == "cluster":
        raise ValueError(
            "not a Redis URL: a cluster has no master and no database; end after the hosts"
        )
    raise ValueError(f"not a Redis URL: the database is not a number; {FORMS}")


def _allowed(kind: str, topology: Topology) -> tuple[str, ...]:
    names: tuple[str, ...] = () if topology == "cluster" else ("db",)
    names += _TLS if kind.startswith("rediss") else ()
    return names + (_SENTINEL if topology == "sentinel" else ())


def _query(text: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    pairs = parse_qsl(text, keep_blank_values=True)
    query: dict[str, Any] = dict(pairs)
    for name, value in pairs:
        if name not in allowed:
            known = ", ".join(allowed) or "nothing"
            raise ValueError(f"unknown option after the ?; write only {known} there")
        if not value:
            raise ValueError(f"{name} is empty; set it or leave it out")
    if len(query) < len(pairs):
        raise ValueError("an option is repeated after the ?; write it once")
    if not re.fullmatch(r"[0-9]{1,9}", query.get("db", "0")):
        raise ValueError("db is not a number; write the number of the database")
    if "ssl_check_hostname" in query:
        if query["ssl_check_hostname"] not in _BOOLEANS:
            raise ValueError("ssl_check_hostname is not a boolean; write true or false")
        query["ssl_check_hostname"] = _BOOLEANS[query["ssl_check_hostname"]]
    if ("ssl_certfile" in query) != ("ssl_keyfile" in query):
        raise ValueError("ssl_certfile and ssl_keyfile need each other; set both or neither")
    return query
