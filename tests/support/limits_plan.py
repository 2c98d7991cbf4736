"""A plan file with every kind of limit, and calls whose cost is known late."""

import hashlib

PLANS = """
version: 1
meters:
  requests: {{unit: request}}
  tokens: {{unit: token, settle: {{json: usage.total_tokens}}}}
  credits:
    unit: credit
    reserve: {{header: X-Credits, default: 3}}
    settle: {{header: X-Credits-Used}}
  traffic: {{unit: byte, settle: {{bytes: both}}}}
routes:
  - {{id: status, match: "GET /status", class: critical, cost: {{}}}}
  - {{id: login, match: "POST /login", class: critical}}
  - {{id: chat, match: "POST /chat", cost: {{requests: 1, tokens: 100}}}}
  - {{id: render, match: "POST /render", cost: {{credits: reserve, traffic: 0}}}}
  - {{id: rest, match: "/**"}}
plans:
  slots:
    features: [core]
    limits: [{{id: in-flight, concurrency: 2}}]
  metered:
    features: [core]
    limits:
      - {{id: monthly, meter: requests, quota: 10/month, at: {{80%: notice, 100%: reject}}}}
      - {{id: tokens, meter: tokens, quota: 1000/month, at: {{50%: notice, 100%: reject}}}}
      - {{id: credits, meter: credits, quota: 100/month}}
      - {{id: traffic, meter: traffic, quota: 1000000/month}}
    refund: [upstream_5xx, upstream_refused, upstream_broken, client_gone]
  shadowed:
    extends: metered
    enforce: shadow
packs:
  boost: {{meter: requests, units: 5, lasts: month, price: 5.00 USD}}
links: {{packs: "https://example.com/packs/{{pack}}"}}
accounts:
  - {{id: slots, plan: slots, keys: [{{id: k1, sha256: {slots}}}]}}
  - {{id: metered, plan: metered, keys: [{{id: k1, sha256: {metered}}}]}}
  - {{id: shadowed, plan: shadowed, keys: [{{id: k1, sha256: {shadowed}}}]}}
"""


def limits_plan() -> str:
    """The keys are the accounts' names."""
    names = ("slots", "metered", "shadowed")
    return PLANS.format(**{n: hashlib.sha256(n.encode()).hexdigest() for n in names}).replace(
        "{{pack}}", "{pack}"
    )
