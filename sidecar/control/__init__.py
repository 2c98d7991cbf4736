"""The control listener: health, metrics and config status, away from customers' traffic."""

from sidecar.control.server import ControlServer

__all__ = ["ControlServer"]
