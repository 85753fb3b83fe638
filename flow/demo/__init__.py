"""One real call on this machine, and its account checked against the vendor's bill."""

from flow.demo.command import run

__all__ = ["run"]
