"""TLS to Redis, as configured in its URL."""

import ssl
from pathlib import Path

from sidecar.errors import SettingsError
from sidecar.pem import pem_problem
from sidecar.redis_address import RedisAddress


def tls_context(address: RedisAddress) -> ssl.SSLContext:
    """Read the TLS files, once. Raises SettingsError if they are invalid."""
    try:
        context = ssl.create_default_context(cafile=address.ssl_ca_certs)
        if address.ssl_certfile is not None:
            context.load_cert_chain(address.ssl_certfile, address.ssl_keyfile)
    except (OSError, ValueError) as error:
        names = (address.ssl_ca_certs, address.ssl_certfile)
        certificates = tuple(Path(name) for name in names if name is not None)
        keys = (Path(address.ssl_keyfile),) if address.ssl_keyfile else ()
        problem = pem_problem(certificates, keys) or str(error)
        raise SettingsError(f"--redis: invalid TLS files: {problem}") from None
    context.check_hostname = address.ssl_check_hostname
    return context
