"""Base64 and decimals as C2SP texts write them: one spelling for each value, every other one refused. Pure."""

from __future__ import annotations

import base64
import binascii
import re

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
DECIMAL_MAX = 2**63 - 1


def encode_base64(data: bytes) -> str:
    """RFC 4648 §4, with padding."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str) -> bytes:
    """The inverse of `encode_base64`, and of nothing else. Raises ValueError."""
    try:
        written = text.encode("ascii")
        data = binascii.a2b_base64(written, strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError(f"{text[:40]!r} is not base64") from error
    if binascii.b2a_base64(data, newline=False) != written:  # superfluous padding or stray bits at the end
        raise ValueError(f"{text[:40]!r} is not base64 as RFC 4648 §4 writes it")
    return data


def parse_decimal(text: str) -> int:
    """An ASCII decimal without leading zeroes, at most 2^63-1. Raises ValueError."""
    if not _DECIMAL.fullmatch(text) or (value := int(text)) > DECIMAL_MAX:
        raise ValueError(f"{text[:40]!r} is not a decimal number")
    return value
