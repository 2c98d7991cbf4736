"""The counters of an account's limits, and the operations on them. Pure.

This is the reference for the Lua scripts.
"""
