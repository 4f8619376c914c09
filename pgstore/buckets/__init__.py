"""Buckets of cloud providers, on their own SDKs, and the trees of files that are made of them.

What a provider is asked for, and the providers:

- `base`: what a provider is asked for, on keys and bytes. A module beside it is a provider:
- `memory`: none, in its simplest form
- `s3`: S3 and all that has its interface; `s3_client` has the SDK's settings, `s3_requests` asks, `s3_upload` puts in parts,
  `s3_copy` has objects copied, `s3_failures` tells the SDK's exceptions apart
- `gcs`: Google Cloud Storage; `gcs_client` has the SDK's settings, `gcs_requests` asks, `gcs_upload` puts in parts,
  `gcs_answers` tells answers apart
- `azure`: Azure Blob Storage; `azure_client` has the SDK's settings
- `opening`: from a `location` and the values of a secret to a bucket; `credentials` says which of the values are understood
- what the providers share: `provider` (the base of their buckets), `failures` (errors), `retries` (and bodies
  that are resumed), `checksums`

What is made of a bucket, of whatever provider:

- `tree`: paths over keys; `keys` says which keys are paths, `listing` makes entries of pages of keys, `known` keeps them a while
- `reading`: an object that is read, in order or elsewhere; `writing`: one that is written, whole or not at all
- `parallel`: the threads and the memory that all files share
"""
