"""The library's JSON, written canonically, so that an application's data can be read in the log as it stands."""

from __future__ import annotations

import json
from typing import Any

from eventsourcing.persistence import JSONTranscoder


class CanonicalJSONTranscoder(JSONTranscoder):
    """The library's JSON transcoder with sorted keys. What it writes, the library's own reads, and the reverse.

    Data without floats comes out as canonical JSON and stands in the log as `data`; anything else is kept as it came
    out, in `data_base64`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sorted = json.JSONEncoder(
            default=self._encode_obj, separators=(",", ":"), ensure_ascii=False, sort_keys=True
        )

    def encode(self, obj: Any) -> bytes:
        """JSON in UTF-8."""
        try:
            return self._sorted.encode(obj).encode("utf-8")
        except TypeError:  # keys of several types cannot be sorted; or a type without transcoding, which it says itself
            return super().encode(obj)
