"""Values of fields: numbers, units, durations and dates as devices write them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.interpret.values import UNITS, date, duration, number, of_stranger, typed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("45", 45),
        ("45.0", 45),
        ("45,5", 45.5),
        ("1,234", 1234),
        ("1,234,567", 1234567),
        ("1.234,5", 1234.5),
        ("1,234.5", 1234.5),
        ("1'234", 1234),
        ("-3.25", -3.25),
        ("1.234", 1.234),
        ("0,125", 0.125),
        ("-0,125", -0.125),
        ("45.", 45),
        ("1.2.3", None),
        ("", None),
        ("x", None),
    ],
)
def test_numbers(text: str, value: Any) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("45 %", (45, "%")),
        ("45%", (45, "%")),
        ("24 minutes", (24, "min")),
        ("22.5 °C", (22.5, "°C")),
        ("22,5°C", (22.5, "°C")),
        ("72 F", (72, "°F")),
        ("12.1 V", (12.1, "V")),
        ("4,00 TB", (4, "TB")),
        ("236.001 GiB", (236.001, "GiB")),
        ("5000 rpm", (5000, "rpm")),
        ("100 Mbps", (100, "Mbit/s")),
        ("２２．５℃", (22.5, "°C")),  # noqa: RUF001
        ("−5 °C", (-5, "°C")),  # noqa: RUF001
        ("22 ºC", (22, "°C")),
        ("1\u202f234,5\xa0kWh", (1234.5, "kWh")),
        ("45 %RH", (45, "%")),
        ("45 % r.F.", (45, "%")),
        ("2 heures", (2, "h")),
        ("30 minutos", (30, "min")),
        ("10 分", (10, "min")),
        ("12", None),
        ("12 34", None),
        ("12 apples", None),
        ("3 c", None),
        ("A1", None),
        ("10:20:30", None),
        ("2026-01-02", None),
        ("45 % of it", None),
        ("", None),
    ],
)
def test_amounts_of_strangers(text: str, amount: Any) -> None:
    assert of_stranger(text) == amount


@pytest.mark.parametrize(
    ("text", "field", "data"),
    [
        ("45.0 Percent", {"type": "number", "unit": "%"}, {"x": 45, "x_unit": "%"}),
        ("about 45", {"type": "number", "unit": "%"}, {"x": 45, "x_unit": "%"}),
        ("1.5 TB", {"type": "number", "unit": "GB"}, {"x": 1500, "x_unit": "GB"}),
        ("90 s", {"type": "number", "unit": "min"}, {"x": 1.5, "x_unit": "min"}),
        ("72 °F", {"type": "number", "unit": "°C"}, {"x": 72, "x_unit": "°F"}),
        ("45", {"type": "number"}, {"x": 45}),
        ("none", {"type": "number", "unit": "%"}, {"x": "none"}),
        ("1 hour 23 minutes", {"type": "duration", "unit": "min"}, {"x": 83, "x_unit": "min"}),
        ("2m 45s", {"type": "duration"}, {"x": 165, "x_unit": "s"}),
        ("1:23:00", {"type": "duration", "unit": "min"}, {"x": 83, "x_unit": "min"}),
        ("soon", {"type": "duration"}, {"x": "soon"}),
        ("07/04/2026 1:05 PM", {"type": "time", "order": "mdy"}, {"x": "2026-07-04T13:05:00"}),
        ("never", {"type": "time"}, {"x": "never"}),
        ("GUT", {"values": {"gut": "ok"}}, {"x": "ok"}),
        ("schlecht", {"values": {"gut": "ok"}}, {"x": "schlecht"}),
    ],
)
def test_fields(text: str, field: dict[str, Any], data: dict[str, Any]) -> None:
    assert dict(typed("x", text, field)) == data


@pytest.mark.parametrize(
    ("text", "order", "moment"),
    [
        ("2025-07-26,16:53:09", "ymd", "2025-07-26T16:53:09"),
        ("2023/1/4 09:10:11", "ymd", "2023-01-04T09:10:11"),
        ("21/12/2021 22:15:33", "dmy", "2021-12-21T22:15:33"),
        ("12/21/2021 10:15 pm", "mdy", "2021-12-21T22:15:00"),
        ("04.07.26 3:2:10", "dmy", "2026-07-04T03:02:10"),
        ("20140204055903", "ymd", "2014-02-04T05:59:03"),
        ("20149904055903", "ymd", None),
        ("26 Jul 2025 16:53", "ymd", "2025-07-26T16:53:00"),
        ("Sat Jul 26 16:53:09 2025", "ymd", "2025-07-26T16:53:09"),
        ("Wed Feb  7 18:28:01 CET 2018", "ymd", "2018-02-07T18:28:01"),
        ("2017 Jun 17 21:24:57", "ymd", "2017-06-17T21:24:57"),
        ("03:12:09 on 2026.11.25", "ymd", "2026-11-25T03:12:09"),
        ("2017 Xyz 17 21:24:57", "ymd", None),
        ("July 26, 2025", "ymd", "2025-07-26"),
        ("31/02/2025", "dmy", None),
        ("12/21/2021", "dmy", None),
        ("12", "ymd", None),
    ],
)
def test_dates(text: str, order: str, moment: str | None) -> None:
    assert date(text, order) == moment


@given(st.text(max_size=80), st.sampled_from(UNITS))
def test_no_text_is_too_strange(text: str, unit: str) -> None:
    of_stranger(text)
    date(text)
    duration(text)
    assert "x" in dict(typed("x", text, {"type": "number", "unit": unit}))
