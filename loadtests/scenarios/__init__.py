"""The guarantees under load, with one module and one plan file for each scenario.

Locust runs the module. `catalog.py` names the processes that each scenario needs.
"""
