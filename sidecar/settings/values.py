"""Types of settings: each validator reads a string, from any source, and returns a value.

A validator raises ValueError with what is wrong and what to write. It returns anything that is
not a string unchanged, and the model checks that.
"""

import re
from ipaddress import ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

from sidecar.addresses import MAX_SOCKET_PATH, Address, Origin, UnixPath
from sidecar.core.jobs.storage import NEVER
from sidecar.core.jobs.webhook_signing import parse_secret
from sidecar.core.paths import Allowance
from sidecar.core.sink_spec import SINK_FORMS, parse_sink
from sidecar.redis_address import redis_address


def _address(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bad_host = not bare or (":" in bare and bare == host) or re.search(r"[\s/@\[\]]", bare)
    if not colon or bad_host or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65_535:
        raise ValueError(f'"{value}" is not an address; write HOST:PORT, like 127.0.0.1:8080')
    return Address(bare, int(port))


def parse_address(text: str) -> Address:
    """Parse HOST:PORT. Raises ValueError with `WHAT; WHAT TO DO`."""
    address = _address(text)
    if not isinstance(address, Address):
        raise TypeError("not a string")
    return address


def _listen(value: object) -> object:
    if not isinstance(value, str) or not value.startswith("unix:"):
        return _address(value)
    path = value.removeprefix("unix:")
    if not path.startswith("/") or path.endswith("/") or "\0" in path:
        raise ValueError(
            f'"{value}" is not a unix socket; write unix:/PATH, like unix:/run/sidecar/http.sock'
        )
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(
            f'the path in "{value}" is too long; write at most {MAX_SOCKET_PATH} bytes'
        )
    return UnixPath(path)


def _upstream(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.startswith("unix:"):
        path = _listen(value)
        return Origin("unix", "", 0, path.path) if isinstance(path, UnixPath) else path
    problem = "is not an upstream; write http://HOST:PORT, https://HOST:PORT or unix:/PATH"
    try:
        url = urlsplit(value)
        port = url.port
    except ValueError:
        raise ValueError(f"the value {problem}") from None
    if url.username is not None or url.password is not None:
        raise ValueError("an upstream cannot have a user or password; remove them")
    plain = url.path in ("", "/") and not url.query and not url.fragment
    if url.scheme not in ("http", "https") or not url.hostname or not plain or port == 0:
        raise ValueError(f'"{value}" {problem}, without a path')
    return Origin(url.scheme, url.hostname, port or (443 if url.scheme == "https" else 80))


def _trace_endpoint(value: object) -> object:
    if not isinstance(value, str):
        return value
    problem = "is not a URL; write http://HOST:PORT or https://HOST:PORT"
    try:
        url = urlsplit(value)
        valid = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        raise ValueError(f"the value {problem}") from None
    if url.username is not None or url.password is not None or url.query:
        raise ValueError(
            "a URL with a user, a password or a query would be logged; remove them, and set "
            "OTEL_EXPORTER_OTLP_HEADERS"
        )
    if not valid or url.fragment or re.search(r"[\s\x00-\x1f]", value):
        raise ValueError(f'"{value}" {problem}')
    return value if url.path.strip("/") else f"{value.rstrip('/')}/v1/traces"


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _networks(value: object) -> object:
    value = _split(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list of networks; write 10.0.0.0/8,192.168.1.7 or unix")
    for one in value:
        try:
            valid = one == "unix" or bool(ip_network(str(one), strict=False))
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(f'"{one}" is not a network; write it like 10.0.0.0/8, or unix')
    return tuple(str(one) for one in value)


def _upgrades(value: object) -> object:
    value = _split(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list of protocols; write websocket")
    for one in value:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+(/[0-9.]+)?", str(one)):
            raise ValueError(f'"{one}" is not a protocol; write it like websocket')
        if str(one).lower().startswith("h2"):
            raise ValueError(
                "an upgrade to HTTP/2 is not allowed, as it would bypass metering; remove it"
            )
    return tuple(str(one).lower() for one in value)


def _host_names(value: object) -> object:
    value = _split(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list of host names; write metrics.example.com")
    for one in value:
        if one != "*" and not re.fullmatch(r"[A-Za-z0-9._-]{1,253}", str(one)):
            raise ValueError(f'"{one}" is not a host name; write it like metrics.example.com, or *')
    return tuple(str(one).lower() for one in value)


def _redis(value: object) -> object:
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if not isinstance(text, str):
        return value
    redis_address(text)
    return value


def _sinks(value: object) -> object:
    value = _split(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"is not a list of sinks; write {SINK_FORMS}")
    seen: set[str] = set()
    for sink in value:
        kind = parse_sink(str(sink)).kind
        if kind in seen:
            raise ValueError(f"there are two sinks of the kind {kind}; remove one")
        seen.add(kind)
    return tuple(value)


def _allowances(value: object) -> object:
    value = _split(value)
    known = ", ".join(Allowance)
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"is not a list; write one or more of {known}")
    for one in value:
        if str(one) not in set(Allowance):
            raise ValueError(f'"{one}" cannot be allowed; write one or more of {known}')
    return tuple(Allowance(str(one)) for one in value)


def _field_names(value: object) -> object:
    value = _split(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list of header fields; write them like x-tenant,x-trace")
    for one in value:
        if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,256}", str(one)):
            raise ValueError(f'"{one}" is not the name of a header field; write it like x-tenant')
        if str(one).lower().encode() in NEVER:
            raise ValueError(f'"{one}" is a credential, which jobs never store; remove it')
    return tuple(str(one).lower() for one in value)


def _parameter_names(value: object) -> object:
    value = _split(value)
    if not isinstance(value, (list, tuple)):
        raise ValueError("is not a list of query parameters; write them like key,pin")
    return tuple(str(one) for one in value)


def _workers(value: object) -> object:
    text = str(value)
    if text != "auto" and not (re.fullmatch(r"[0-9]{1,3}", text) and 1 <= int(text) <= 256):
        raise ValueError(
            f'"{text}" is not a number of workers; write a number from 1 to 256, or auto'
        )
    return text


def _shed(value: object) -> object:
    text = str(value)
    number = re.fullmatch(r"[0-9]{1,6}", text) and 1 <= int(text) <= 100_000
    if text not in ("off", "adaptive") and not number:
        raise ValueError(
            f'"{text}" is not a limit; write adaptive, off, or a number from 1 to 100000'
        )
    return text


def _mode(value: object) -> object:
    if not re.fullmatch(r"0?[0-7]{3}", str(value)):
        raise ValueError(f'"{value}" is not a file mode; write it in octal, like 660')
    return str(value)


def _webhook_secret(value: object) -> object:
    if isinstance(value, str):
        parse_secret(value)
        return SecretStr(value)
    return value


Upstream = Annotated[Origin, NoDecode, BeforeValidator(_upstream)]
Networks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_networks)]
Upgrades = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_upgrades)]
HostNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_host_names)]
Tcp = Annotated[Address, NoDecode, BeforeValidator(_address)]
Listen = Annotated[Address | UnixPath, NoDecode, BeforeValidator(_listen)]
Redis = Annotated[SecretStr, BeforeValidator(_redis)]
Sinks = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_sinks)]
Allowances = Annotated[tuple[Allowance, ...], NoDecode, BeforeValidator(_allowances)]
FieldNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_field_names)]
ParameterNames = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parameter_names)]
WebhookSecret = Annotated[SecretStr, BeforeValidator(_webhook_secret)]
Workers = Annotated[str, BeforeValidator(_workers)]
Shed = Annotated[str, BeforeValidator(_shed)]
Mode = Annotated[str, BeforeValidator(_mode)]
TraceEndpoint = Annotated[str, BeforeValidator(_trace_endpoint)]
Seconds = Annotated[float, Field(ge=0.001, le=86_400)]
