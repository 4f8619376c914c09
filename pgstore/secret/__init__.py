"""Secrets: environment variables that functions get and nobody sees.

`secret` has what users handle, and says where the values of a name come from. `table` keeps secrets in the database, `encryption`
is what they are kept with, `dotenv` reads files of them. `values` is the dict in which they are handed on.

A value is in no `repr`, log, error, pickle or row. What is in the database is encrypted with a key that is not.
"""

from pgstore.secret.secret import Secret

__all__ = ["Secret"]
