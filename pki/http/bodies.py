"""What every face does with a request: its body within bounds, JSON in and out, whoever is asking."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ledger.errors import InvalidRequest, Pushback
from ledger.http.problems import Refused

JSON: Final = "application/json"


@dataclass(eq=False, slots=True)
class Bodies:
    """The bounds of the bodies that one face is receiving; sizes in bytes."""

    size_max: int = 256 * 2**10
    all_size_max: int = 64 * 2**20
    timeout_s: float = 30.0
    retry_after_s: float = 1.0
    size: int = 0

    async def receive(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            Refused: it is too large (413), or does not arrive in time (408).
            Pushback: too much is being received at once.
        """
        body = bytearray()
        try:
            async with asyncio.timeout(self.timeout_s):
                async for chunk in request.stream():
                    if len(body) + len(chunk) > self.size_max:
                        raise Refused(
                            413, "body-too-large", f"the body has more than {self.size_max} bytes", hint="send less"
                        )
                    if self.size + len(chunk) > self.all_size_max:
                        raise Pushback("too many bodies are being received", retry_after_s=self.retry_after_s)
                    self.size += len(chunk)
                    body += chunk
        except TimeoutError as error:
            raise Refused(
                408,
                "body-too-slow",
                f"the body did not arrive within {self.timeout_s:g} s",
                hint="nothing was recorded; send it again",
                headers={"connection": "close"},
            ) from error
        finally:
            self.size -= len(body)
        return bytes(body)

    async def receive_object(self, request: Request) -> dict[str, Any]:
        """The body, which is one JSON object. Raises as `receive`; Refused (415), InvalidRequest: it is none."""
        if media_type(request) != JSON:
            raise Refused(415, "unsupported-content-type", "this takes JSON", hint=f"send {JSON}")
        return json_object(await self.receive(request))


def media_type(request: Request) -> str:
    """The content type of a request, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def json_object(body: bytes) -> dict[str, Any]:
    """One JSON object. Raises InvalidRequest: it is none."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"the body is no JSON ({error})"[:200]) from error
    if not isinstance(value, dict):
        raise InvalidRequest("the body is no JSON object")
    return value


def json_response(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """An answer in JSON, which nobody may keep."""
    return Response(orjson.dumps(value), status, {"cache-control": "no-store", **(headers or {})}, JSON)
