"""Moving files between this machine and a store."""
