"""TLS to Redis, as configured in its URL."""

import ssl

from sidecar.errors import SettingsError
from sidecar.redis_address import RedisAddress


def tls_context(address: RedisAddress) -> ssl.SSLContext:
    """Read the TLS files, once. Raises SettingsError if they are invalid."""
    try:
        context = ssl.create_default_context(cafile=address.ssl_ca_certs)
        if address.ssl_certfile is not None:
            context.load_cert_chain(address.ssl_certfile, address.ssl_keyfile)
    except (OSError, ValueError) as error:
        raise SettingsError(f"--redis: invalid TLS files: {error}") from None
    context.check_hostname = address.ssl_check_hostname
    return context
