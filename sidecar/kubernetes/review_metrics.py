"""Metrics of the webhook."""

import ssl
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from sidecar.kubernetes.admission import KINDS, RESULTS


class LiveCertificate(Protocol):
    """A certificate that follows its files. Attributes and methods as in the data port's."""

    context: ssl.SSLContext
    not_after: float
    current: bool
    failures: int
    reloads: int

    def reload(self) -> bool:
        """Read the files again. Returns whether they are live now."""
        ...

    async def watch(self) -> None:
        """Follow the files until cancelled."""
        ...


class ReviewMetrics(Collector):
    """Reviews by kind and result, both finite sets, and the state of the certificate."""

    def __init__(self, certificate: LiveCertificate) -> None:
        self._certificate = certificate
        self._reviews = {(kind, result): 0 for kind in KINDS for result in RESULTS}
        self._rejected = 0
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def count(self, kind: str, result: str) -> None:
        """Count a review that was answered."""
        self._reviews[kind, result] += 1

    def reject(self) -> None:
        """Count a request that was not a review."""
        self._rejected += 1

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, for a client that accepts these types."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        """Make metric families of the numbers."""
        reviews = CounterMetricFamily(
            "sidecar_webhook_reviews", "Admission reviews, by result.", labels=("kind", "result")
        )
        for labels, count in self._reviews.items():
            reviews.add_metric(labels, count)
        yield reviews
        yield CounterMetricFamily(
            "sidecar_webhook_rejected", "Requests that were not reviews.", self._rejected
        )
        certificate = self._certificate
        yield GaugeMetricFamily(
            "sidecar_tls_certificate_expiry_timestamp_seconds",
            "Expiry of the live certificate.",
            certificate.not_after,
        )
        yield GaugeMetricFamily(
            "sidecar_tls_certificate_ok",
            "1 if the live certificate is the one in the files.",
            float(certificate.current),
        )
        yield CounterMetricFamily(
            "sidecar_tls_reloads", "Certificates that replaced another.", certificate.reloads
        )
        yield CounterMetricFamily(
            "sidecar_tls_reload_failures",
            "Certificates that could not replace the live one.",
            certificate.failures,
        )
