"""Products: what a call is sold as."""
