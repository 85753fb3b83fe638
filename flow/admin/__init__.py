"""What operators do, by the command line and over HTTP: keys, quotas, usage, and their JSON."""
