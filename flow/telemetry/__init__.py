"""What a process shows of itself: numbers for Prometheus, spans for OpenTelemetry."""
