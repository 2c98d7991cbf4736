"""Which Redis: the text of `--redis`, read into a value. Nothing is looked up, opened or read.

    redis://[USER:PASSWORD@]HOST:PORT/NUMBER                one server; rediss:// for TLS
    unix://[USER:PASSWORD@]/PATH?db=NUMBER                  one server, by its socket
    redis+sentinel://…HOST:PORT,HOST:PORT/MASTER/NUMBER     the master that these sentinels name
    redis+cluster://…HOST:PORT,HOST:PORT                    the cluster that these nodes are of

User and password are percent-encoded. The query says what TLS needs, in redis-py's words.
"""

import re
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from urllib.parse import parse_qsl, unquote

from sidecar.addresses import Address, UnixPath

Topology = Literal["single", "sentinel", "cluster"]

_TOPOLOGIES: Final[dict[str | None, Topology]] = {
    None: "single", "sentinel": "sentinel", "cluster": "cluster"
}  # fmt: skip
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
_PATHS: Final = {
    "single": re.compile(r"/?(?P<master>)(?P<number>[0-9]*)"),
    "sentinel": re.compile(r"/(?P<master>[A-Za-z0-9._-]+)(/(?P<number>[0-9]*))?"),
    "cluster": re.compile(r"/?(?P<master>)(?P<number>0?)"),
}
_PORTS: Final = {"single": 6379, "sentinel": 26379, "cluster": 6379}
_TLS: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname")
_SENTINEL: Final = ("sentinel_username", "sentinel_password")
_YES_NO: Final = {"true": True, "false": False}


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is and who we are there. `str(address)` may be logged: it has no credentials."""

    topology: Topology
    nodes: tuple[Address, ...]  # the server, the sentinels or some of the cluster; none for a path
    path: str = ""  # of a unix socket
    master: str = ""  # what the sentinels call it
    database: int = 0
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    sentinel_username: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls: bool = False
    ssl_ca_certs: str | None = None  # a PEM file; None: what the system trusts
    ssl_certfile: str | None = None
    ssl_keyfile: str | None = None
    ssl_check_hostname: bool = True

    @property
    def at(self) -> Address | UnixPath:
        """The one server, or the first of the nodes."""
        return UnixPath(self.path) if self.path else self.nodes[0]

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
        """What redis-py's clients are to be told, but for hosts and ports."""
        given = {"username": self.username, "password": self.password, "db": self.database}
        return {name: value for name, value in given.items() if value} | self._tls_options()

    def sentinel_options(self) -> dict[str, Any]:
        """The same for the connections to the sentinels."""
        given = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {name: value for name, value in given.items() if value} | self._tls_options()

    def _tls_options(self) -> dict[str, Any]:
        if not self.tls:
            return {}
        given = {name: getattr(self, name) for name in _TLS}
        return {"ssl": True} | {name: value for name, value in given.items() if value is not None}


def redis_address(text: str) -> RedisAddress:
    """Raises ValueError with what is wrong. Nothing of the text is repeated: it may hold a
    password, and not where it belongs."""
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
            raise ValueError(f"not a Redis URL: it names no socket; {FORMS}")
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
            raise ValueError(f"not a Redis URL: a part of it is not HOST:PORT; {FORMS}")
        nodes.append(Address(node["six"] or node["host"], port))
    if topology == "single" and len(nodes) > 1:
        raise ValueError(
            "several hosts are of a cluster or of sentinels; write redis+cluster://… or "
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
        raise ValueError("not a Redis URL: a cluster has neither name nor number after its hosts")
    raise ValueError(f"not a Redis URL: what stands after the host is no number; {FORMS}")


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
            raise ValueError(f"what stands after the ? is not known; {known} may stand there")
        if not value:
            raise ValueError(f"{name} is empty")
    if len(query) < len(pairs):
        raise ValueError("a name stands twice after the ?")
    if not re.fullmatch(r"[0-9]{1,9}", query.get("db", "0")):
        raise ValueError("db is not a number")
    if "ssl_check_hostname" in query:
        if query["ssl_check_hostname"] not in _YES_NO:
            raise ValueError("ssl_check_hostname is true or false")
        query["ssl_check_hostname"] = _YES_NO[query["ssl_check_hostname"]]
    if ("ssl_certfile" in query) != ("ssl_keyfile" in query):
        raise ValueError("ssl_certfile and ssl_keyfile go together: give both, or neither")
    return query
