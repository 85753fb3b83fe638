"""Speech made and recognised without an account."""
