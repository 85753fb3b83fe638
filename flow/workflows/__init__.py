"""What happens to a thread beyond its call, in steps that can be repeated."""
