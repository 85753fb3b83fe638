"""The composition root: settings in, running service out."""
