"""Large plan files of several shapes."""

METHODS = ("GET", "POST", "PUT", "DELETE")


def plan_file(plans: int, routes: int, shape: str = "flat") -> bytes:
    """Return a plan file.

    `shape`: "flat", "chain" (each plan extends the next), "features" (routes need one of 50
    features, and half of the plans have none), or "critical" (half of the routes cost nothing).
    """
    lines = ["version: 1", "meters: {requests: {unit: request}}", "routes:"]
    for number in range(routes):
        match = f"{METHODS[number % 4]} /v1/{{org}}/r{number}/**"
        more = f", needs: [f{number % 50}]" if shape == "features" else ""
        if shape == "critical" and number % 2:
            more = ", class: critical, cost: {}"
        lines.append(f'  - {{id: r{number}, match: "{match}"{more}}}')
    lines.append("plans:")
    for number in range(plans):
        more = f"extends: p{number + 1}, " if shape == "chain" and number < plans - 1 else ""
        if shape == "features" and number % 2:
            more = f"features: [{', '.join(f'f{each}' for each in range(50))}], "
        limit = "{id: q, meter: requests, quota: 1000/day}"
        lines.append(f"  p{number}: {{{more}limits: [{limit}]}}")
    return "\n".join(lines).encode()
