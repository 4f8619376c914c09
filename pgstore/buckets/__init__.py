"""Buckets of cloud providers, on their own SDKs.

- `base`: what a provider is asked for, on keys and bytes. A module beside it is a provider:
- `memory`: none, in its simplest form
"""
