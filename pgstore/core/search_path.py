"""The search_path of a session: where PostgreSQL looks for names that SQL does not qualify.

It looks in pg_catalog first, unless the path names pg_catalog further on. In such a session what others create in the schemas
before it stands for PostgreSQL's own operators, functions and types, whatever a statement says, and runs with the rights of
whoever sends it. Nothing is safe there, so it is refused. In every other session our statements call nothing but pg_catalog and
pgstore: where something in a later schema could match better than what they mean, they are exact in types, or qualify.
"""

from __future__ import annotations

import re

_NAME = re.compile(r'"((?:[^"]|"")*)"|([^",\s]+)')


def fault_of(search_path: str) -> str | None:
    """What is wrong with *search_path*, as `current_setting` gives it, and what to set instead; None if it is safe."""
    names = [quoted.replace('""', '"') if quoted else bare.lower() for quoted, bare in _NAME.findall(search_path)]
    if "pg_catalog" not in names[1:] or names[0] == "pg_catalog":
        return None
    return (
        f"search_path {search_path!r}, which names pg_catalog after {names[0]!r}: what others create there would run in place of "
        "PostgreSQL's own functions; name pg_catalog first, or leave it out"
    )
