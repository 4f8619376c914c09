"""Stores: what every kind has, such as handles, their registry and deletion."""
