"""After the call: structured insights from its transcript."""
