"""TLS to Redis, as its URL asks for it."""

import ssl

from sidecar.errors import SettingsError
from sidecar.redis_address import RedisAddress


def tls_context(address: RedisAddress) -> ssl.SSLContext:
    """The files are read now, once. Raises SettingsError for those that cannot be used."""
    try:
        context = ssl.create_default_context(cafile=address.ssl_ca_certs)
        if address.ssl_certfile is not None:
            context.load_cert_chain(address.ssl_certfile, address.ssl_keyfile)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the TLS files of --redis cannot be used: {error}") from None
    context.check_hostname = address.ssl_check_hostname
    return context
