"""The decide port: gateways ask whether a request may pass, and report how it ended.

`decisions.py` is the part that every protocol of gateways shares; `handler.py` serves HTTP.
"""
