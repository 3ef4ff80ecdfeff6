"""Hours of the day, against a count of minutes."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from polyclinic.node.hours import Hours

MINUTES = st.integers(0, 1439)


def text(minute):
    return f"{minute // 60:02}:{minute % 60:02}"


def at(minute, second=0):
    return datetime(2026, 3, 4, minute // 60, minute % 60, second, tzinfo=UTC)


def hours(*ranges, zone="UTC"):
    return Hours(ranges=ranges, time_zone=zone)


@given(st.lists(st.tuples(MINUTES, MINUTES).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=3), MINUTES)
def test_a_minute_is_allowed_if_a_walk_from_some_begin_meets_it_before_the_end(ranges, minute):
    reached = False
    for begin, end in ranges:
        step = begin
        while step != end:
            reached = reached or step == minute
            step = (step + 1) % 1440
    rule = hours(*(f"{text(begin)}-{text(end)}" for begin, end in ranges))
    assert rule.allow(at(minute)) == rule.allow(at(minute, 59)) == reached


@given(st.lists(st.tuples(MINUTES, MINUTES).filter(lambda pair: pair[0] != pair[1]), min_size=1, max_size=3), MINUTES)
def test_work_may_begin_at_the_next_begin_and_at_none_before_it(ranges, minute):
    rule = hours(*(f"{text(begin)}-{text(end)}" for begin, end in ranges))
    later = minute
    if not rule.allow(at(minute)):
        while not rule.allow(at(later)):
            later = (later + 1) % 1440
        assert rule.next_begin(at(minute)) == text(later)


@pytest.mark.parametrize(
    ("minute", "allowed"),
    [("18:59", False), ("19:00", True), ("23:59", True), ("00:00", True), ("06:59", True), ("07:00", False)],
    ids=str,
)
def test_a_range_over_midnight(minute, allowed):
    hour, _, rest = minute.partition(":")
    assert hours("19:00-07:00").allow(at(int(hour) * 60 + int(rest))) == allowed


def test_the_whole_day_and_up_to_midnight():
    assert all(Hours().allow(at(minute)) for minute in range(0, 1440, 7))
    assert hours("20:00-24:00").allow(at(1439))
    assert not hours("20:00-24:00").allow(at(0))


def test_the_clock_on_the_wall_counts_also_in_summer():
    rule = hours("08:00-09:00", zone="Europe/Paris")
    assert rule.allow(datetime(2026, 1, 15, 7, 30, tzinfo=UTC))  # winter: UTC + 1
    assert rule.allow(datetime(2026, 7, 15, 6, 30, tzinfo=UTC))  # summer: UTC + 2
    assert not rule.allow(datetime(2026, 7, 15, 7, 30, tzinfo=UTC))
    # What zone the moment is told in makes no difference.
    assert rule.allow(datetime(2026, 1, 15, 12, 30, tzinfo=timezone(timedelta(hours=5))))


def test_local_time_is_this_machines():
    now = datetime.now(UTC)
    here = now.astimezone()
    minute = here.hour * 60 + here.minute
    assert Hours(ranges=(f"{text(minute)}-{text((minute + 1) % 1440)}",)).allow(now)


@pytest.mark.parametrize(
    "bad",
    [
        "7:00-9:00",
        "07:00",
        "07:00-07:00",
        "24:00-07:00",
        "07:00-24:01",
        "07:60-08:00",
        " 07:00-08:00",
        "",
        "\u0660\u0667:00-08:00",
    ],
    ids=range(9),
)
def test_what_is_no_range_is_refused(bad):
    with pytest.raises(ValidationError, match="19:00-07:00"):
        hours(bad)


def test_no_range_at_all_is_refused():
    with pytest.raises(ValidationError):
        hours()


@pytest.mark.parametrize("zone", ["Nowhere", "../etc/passwd", "", "/etc/localtime"], ids=range(4))
def test_an_unknown_time_zone_is_refused(zone):
    with pytest.raises(ValidationError, match="time zone"):
        hours("07:00-08:00", zone=zone)


def test_it_can_be_read():
    assert str(hours("19:00-07:00", "12:00-13:00", zone="Europe/Paris")) == "19:00-07:00, 12:00-13:00 (Europe/Paris)"
    assert str(Hours()) == "00:00-24:00 (local time)"
