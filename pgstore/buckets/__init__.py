"""Buckets of cloud providers, on their own SDKs.

- `base`: what a provider is asked for, on keys and bytes. A module beside it is a provider:
- `memory`: none, in its simplest form
- `s3`: S3 and all that has its interface; `s3_client` has the SDK's settings, `s3_requests` asks, `s3_upload` puts in parts,
  `s3_copy` has objects copied, `s3_failures` tells the SDK's exceptions apart
- `opening`: from a `location` and the values of a secret to a bucket; `credentials` says which of the values are understood
- what the providers share: `failures` (errors), `retries` (and bodies that are resumed), `checksums`
"""
