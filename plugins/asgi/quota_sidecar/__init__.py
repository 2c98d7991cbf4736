"""Plans, limits and usage events of Quota Sidecar in ASGI and WSGI applications.

The middleware asks the sidecar's decide port before each request, and reports how it ended.
"""

from quota_sidecar.asgi import QuotaMiddleware
from quota_sidecar.async_client import AsyncClient
from quota_sidecar.contract import Decision, NoDecision, Refusal
from quota_sidecar.options import Options
from quota_sidecar.quota import Quota, cost, current
from quota_sidecar.wsgi import QuotaWsgiMiddleware

__all__ = [
    "AsyncClient",
    "Decision",
    "NoDecision",
    "Options",
    "Quota",
    "QuotaMiddleware",
    "QuotaWsgiMiddleware",
    "Refusal",
    "cost",
    "current",
]
