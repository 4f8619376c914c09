"""Changes of a transaction, and how its commit writes them."""
