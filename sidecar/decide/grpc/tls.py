"""TLS of the gRPC server, with the files that the live certificate was read from."""

from typing import Any

import grpc

from sidecar.proxy.downstream.certificate import Certificate


def credentials(certificate: Certificate) -> Any:
    """Credentials that follow the certificate: each handshake uses the live one.

    With a client CA, Envoy must have a certificate of it.
    """
    used = certificate.reloads

    def configuration() -> Any:
        files = certificate.read()
        return grpc.ssl_server_certificate_configuration([(files.key, files.cert)], files.client_ca)

    def changed() -> Any:
        """The new configuration; None if the former one is live. Called in a thread of gRPC."""
        nonlocal used
        if certificate.reloads == used:
            return None
        used = certificate.reloads
        try:
            return configuration()
        except OSError:  # removed since the reload; the certificate reports it
            return None

    return grpc.dynamic_ssl_server_credentials(
        configuration(), changed, require_client_authentication=certificate.has_client_ca
    )
