"""Refusals as problem details (RFC 9457), and the header fields that go with them. Pure."""
