"""What the product promises under load, one module and one plan file for each scenario.

A module is what Locust runs; `catalog.py` says which processes stand around it.
"""
