"""What schemathesis must not try, and why; it loads this by its name (SCHEMATHESIS_HOOKS)."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def filter_body(context: Any, body: Any) -> bool:
    """To JSON Schema 1.0 is an integer; to this ledger it is a float, which no entry holds outside of its data."""
    events = body if isinstance(body, list) else [body]
    return not any(
        isinstance(value, float)
        for event in events
        if isinstance(event, dict)
        for name, value in event.items()
        if name != "data"
    )


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Headers that nobody knows are passed over, as HTTP demands (RFC 9110 §5.1)."""
    return "x-schemathesis-unknown-property" not in (case.headers or {})
