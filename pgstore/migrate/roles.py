"""Roles: who is granted rights in the schema; sql/admin/roles.sql says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, LiteralString

from pgstore import errors
from pgstore.core.names import UNSTORABLE
from pgstore.migrate import directories


@dataclass(frozen=True)
class Roles:
    """
    Names of the roles that are granted rights; sql/admin/roles.sql says which.

    Roles belong to the whole cluster: with the same names in two of its databases, a member has its rights in both.
    """

    reader: str = "pgstore_reader"
    writer: str = "pgstore_writer"
    owner: str = "pgstore_owner"

    def __post_init__(self) -> None:
        for name in self:
            if not 1 <= len(name.encode(errors="replace")) <= 63 or UNSTORABLE.search(name):
                raise errors.InvalidError(f"role name {name!r} is not of 1 to 63 bytes of UTF-8, without NUL")

    def __iter__(self) -> Iterator[str]:
        return iter((self.reader, self.writer, self.owner))


DEFAULT_ROLES: Final = Roles()


def roles_script() -> str:
    """What grants the roles their rights. It reads their names from settings; see `role_settings`."""
    return (directories.sql_directory() / "admin" / "roles.sql").read_text(encoding="utf-8")


def role_settings(roles: Roles | None) -> list[tuple[str, str]]:
    """Names and values of the settings that tell the script whom to grant rights."""
    if roles is None:
        return [("pgstore.roles", "off")]
    return [("pgstore.reader", roles.reader), ("pgstore.writer", roles.writer), ("pgstore.owner", roles.owner)]


# `store` stands for all tables.
GRANTED: LiteralString = """
SELECT r.rolname::text AS name
  FROM pg_roles r
 WHERE r.rolname = ANY (%s)
   AND has_schema_privilege(r.oid, 'pgstore', 'USAGE')
   AND has_table_privilege(r.oid, 'pgstore.store', 'SELECT')
"""

# Who holds any right on anything in the schema, but for those who own something in it. Exact in types, for it also runs in sessions
# whose search_path we have not set (`core.search_path`).
GRANTEES: LiteralString = """
WITH part AS (
     SELECT n.nspowner AS owner, n.nspacl AS acl
       FROM pg_catalog.pg_namespace n
      WHERE n.nspname = 'pgstore'
      UNION ALL
     SELECT c.relowner, c.relacl
       FROM pg_catalog.pg_class c
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'pgstore'
      UNION ALL
     SELECT c.relowner, a.attacl
       FROM pg_catalog.pg_attribute a
       JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
       JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
      WHERE n.nspname = 'pgstore'
        AND a.attacl IS NOT NULL
      UNION ALL
     SELECT p.proowner, coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner))
       FROM pg_catalog.pg_proc p
       JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
      WHERE n.nspname = 'pgstore'
      UNION ALL
     SELECT t.typowner, coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))
       FROM pg_catalog.pg_type t
       JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
      WHERE n.nspname = 'pgstore'
        AND t.typtype IN ('d', 'e', 'r')
)
SELECT DISTINCT CASE a.grantee WHEN 0::oid THEN 'PUBLIC' ELSE pg_catalog.pg_get_userbyid(a.grantee)::text END AS name
  FROM part p
 CROSS JOIN LATERAL pg_catalog.aclexplode(p.acl) a
 WHERE NOT EXISTS (SELECT FROM part o WHERE o.owner = a.grantee)
 ORDER BY name
"""
