"""Schedules of functions: kept and checked. Nothing here runs by them; cron does, with `pgstore run FILE::function`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from pgstore.core.checks import check_int, check_seconds
from pgstore.errors import InvalidError

CRON_FIELDS: Final = 5


@dataclass(frozen=True, kw_only=True)
class Period:
    """Every so often. All but *seconds* are whole numbers."""

    years: int = 0
    months: int = 0
    weeks: int = 0
    days: int = 0
    hours: int = 0
    minutes: int = 0
    seconds: float = 0

    def __post_init__(self) -> None:
        for unit in ("years", "months", "weeks", "days", "hours", "minutes"):
            check_int(getattr(self, unit), unit, 0)
        check_seconds(self.seconds, "seconds")
        if not any(vars(self).values()):
            raise InvalidError("the period is empty; say how long it is, such as Period(hours=4)")


@dataclass(frozen=True)
class Cron:
    """
    At the times that *cron_string* says, as in a crontab: minute, hour, day, month, weekday.

    Args:
        timezone: the name of one, such as "America/New_York".
    """

    cron_string: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        given: object = self.cron_string
        fields = given.split() if isinstance(given, str) else []
        if len(fields) != CRON_FIELDS or not all(re.fullmatch(r"[\w*,/-]+", field, re.ASCII) for field in fields):
            raise InvalidError(f"{self.cron_string!r} is no cron string of {CRON_FIELDS} fields, such as '0 9 * * 4'")
        if self.timezone == "UTC":  # also where the machine has no list of zones
            return
        import zoneinfo  # late: few programs have schedules

        try:
            zoneinfo.ZoneInfo(self.timezone)
        except (KeyError, ValueError, TypeError, OSError) as exc:
            raise InvalidError(f"{self.timezone!r} is no time zone, such as 'Europe/Berlin'") from exc
