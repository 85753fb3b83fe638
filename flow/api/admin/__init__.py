"""``/api/admin/``: what operators see and set, for keys with the permission ``flow.admin``."""
