"""What an operator does from a terminal: issue keys, set their limits, look at usage."""
