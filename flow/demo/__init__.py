"""Real work on this machine, a call or requests to the LLM gateway, and its account checked against
the vendors' bills."""

from flow.demo.command import run, run_gateway

__all__ = ["run", "run_gateway"]
