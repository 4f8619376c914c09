"""What a value is stored as: the letters in the columns `codec` of `dict_entry` and `queue_item` (sql/schema.sql)."""

from __future__ import annotations

from typing import Final

# Plain str, not an enum: each row that is read is compared with them.
INTEGER: Final = "i"
FLOAT: Final = "f"
JSON: Final = "j"
PICKLE: Final = "p"
SIGNED_PICKLE: Final = "s"  # behind SIGNATURE_BYTES of signature
