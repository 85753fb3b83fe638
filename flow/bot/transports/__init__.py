"""How callers' audio reaches a bot, a module for each transport."""
