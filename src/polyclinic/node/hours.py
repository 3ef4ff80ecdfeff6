"""The hours of the day in which a node may begin work."""

from __future__ import annotations

import re
from datetime import datetime, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

LOCAL = "local"
_RANGE = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])-([01][0-9]|2[0-3]|24):([0-5][0-9])")
_DAY = 24 * 60


def _minutes(text: str) -> tuple[int, int]:
    """Begin and end of ``"19:00-07:00"``, in minutes since midnight; the end may be before the begin.

    Raises:
        ValueError: it is no range.
    """
    found = _RANGE.fullmatch(text)
    begin, end = (0, 0) if found is None else (int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4]))
    if found is None or begin == end or end > _DAY:
        raise ValueError('write a range of hours as "19:00-07:00", and the whole day as "00:00-24:00"')
    return begin, end


def _is_range(text: str) -> str:
    _minutes(text)
    return text


def _is_zone(name: str) -> str:
    try:
        if name != LOCAL:
            ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError('write "local", or a time zone that this machine knows, such as "Europe/Paris"') from None
    return name


class Hours(BaseModel):
    """Ranges of the time of day, also over midnight; a range's end is not in it.

    Args:
        ranges: at least one, as ``"19:00-07:00"``.
        time_zone: `LOCAL` for that of this machine, or a name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    ranges: Annotated[tuple[Annotated[str, AfterValidator(_is_range)], ...], Field(min_length=1)] = ("00:00-24:00",)
    time_zone: Annotated[str, AfterValidator(_is_zone)] = LOCAL

    def allow(self, now: datetime) -> bool:
        """Whether work may begin; ``now``: with its time zone."""
        minute = _minute_of(self.here(now))
        return any(
            begin <= minute < end if begin < end else minute >= begin or minute < end
            for begin, end in map(_minutes, self.ranges)
        )

    def here(self, now: datetime) -> datetime:
        """The same moment, as the clock on the wall says."""
        zone: tzinfo | None = None if self.time_zone == LOCAL else ZoneInfo(self.time_zone)
        return now.astimezone(zone)

    def next_begin(self, now: datetime) -> str:
        """When the next range begins, as ``"19:00"``."""
        minute = _minute_of(self.here(now))
        begin = min((begin for begin, _ in map(_minutes, self.ranges)), key=lambda begin: (begin - minute - 1) % _DAY)
        return f"{begin // 60:02}:{begin % 60:02}"

    def __str__(self) -> str:
        zone = "local time" if self.time_zone == LOCAL else self.time_zone
        return f"{', '.join(self.ranges)} ({zone})"


def _minute_of(moment: datetime) -> int:
    return moment.hour * 60 + moment.minute
