"""From an event in a call to a row in the ledger, through a spool that outlives the process."""
