from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from signal_server.logs import JsonFormatter


def line(message: str, *arguments: object, failed: bool = False) -> dict[str, str]:
    try:
        raise ValueError("a reason\nin two lines")
    except ValueError:
        error = sys.exc_info() if failed else None
    record = logging.LogRecord("signal_server.hub", logging.WARNING, __file__, 1, message, arguments, error)
    text = JsonFormatter().format(record)
    assert "\n" not in text and text.isascii()
    values: dict[str, str] = json.loads(text)
    return values


def test_a_record_is_an_object_on_one_line() -> None:
    values = line("room %s: %d\ninside \u2028", 'a"b', 3)
    time = datetime.fromisoformat(values.pop("time"))
    assert abs((datetime.now(UTC) - time).total_seconds()) < 60
    assert time.utcoffset() is not None
    assert values == {"level": "warning", "logger": "signal_server.hub", "message": 'room a"b: 3\ninside \u2028'}


def test_an_exception_is_a_text_of_the_same_line() -> None:
    values = line("It failed", failed=True)
    assert values["exception"].startswith("Traceback (most recent call last):")
    assert values["exception"].endswith("ValueError: a reason\nin two lines")
