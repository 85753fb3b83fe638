"""The operator's commands: issuing keys, setting their limits, reading usage."""
