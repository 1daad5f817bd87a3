"""Which headers name a parent, by the rules of W3C Trace Context."""

from typing import Any

import pytest

from common.telemetry.traceparent import NO_PARENT, Parent, is_traceparent, parent_of

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD.upper(),
        GOOD[:-1],
        GOOD + "-extra",
        GOOD + "\n",
        GOOD.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
    ],
)
def test_what_is_no_traceparent(text: str) -> None:
    assert is_traceparent(GOOD) and not is_traceparent(text)


@pytest.mark.parametrize(
    ("metadata", "parent"),
    [
        (None, NO_PARENT),
        ([("user-agent", "x")], NO_PARENT),
        ([("traceparent", GOOD)], Parent(GOOD)),
        ([("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")], Parent(GOOD, "a=1,b=2")),
        ([("tracestate", "a=1"), ("traceparent", GOOD)], Parent(GOOD, "a=1")),
        ([("traceparent", GOOD), ("traceparent", GOOD)], NO_PARENT),
        ([("traceparent", GOOD), ("tracestate", "a=" + "1" * 600)], Parent(GOOD)),
        ([("traceparent", b"bytes")], NO_PARENT),
        ([("tracestate", "a=1")], NO_PARENT),
    ],
)
def test_metadata_name_a_parent(metadata: list[tuple[str, Any]] | None, parent: Parent) -> None:
    assert parent_of(metadata) == parent
