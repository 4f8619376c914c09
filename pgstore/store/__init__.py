"""Stores: what every kind has.

`handle` is the base class of Dict, Queue, Volume and NetworkFileSystem, `objects` what is done with stores rather than in one,
`registry` the table that they are found in, `deletion` their end.
"""
