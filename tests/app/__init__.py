"""App, functions, calls and secrets."""
