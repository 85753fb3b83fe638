"""Metrics for Prometheus, spans for OpenTelemetry, and structured logs."""
