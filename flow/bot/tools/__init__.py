"""What a bot can do in a call beside talking: one module a kind of tool."""
