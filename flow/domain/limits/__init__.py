"""Keys, budgets and quotas."""
