"""Software nobody here wrote speaks to the API: the CloudEvents SDK posts to it, schemathesis tries its document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from ledger.http.limits import HttpLimits
from tests.support.http_api import served_in_a_thread

ROOT = Path(__file__).parents[2]


def the_event(id_: str) -> CloudEvent:
    return CloudEvent(
        {
            "id": id_,
            "source": "urn:example:地方",
            "type": "record.amended.v1",
            "subject": '100% "金" ☃',
            "time": datetime(2026, 11, 24, 1, 53, 35, tzinfo=UTC),
            "datacontenttype": "application/json",
            "classification": "internal",
        },
        {"name": "石", "n": 1.5},
    )


@pytest.mark.parametrize("encode", [to_structured_event, to_binary_event])
def test_the_cloudevents_sdk_posts_in_either_mode(encode: object) -> None:
    assert callable(encode)
    with served_in_a_thread() as url:
        message: HTTPMessage = encode(the_event("1"))
        answer = httpx.post(f"{url}/events", headers=message.headers, content=message.body)
        assert answer.status_code == 201, answer.text
        again = httpx.post(f"{url}/events", headers=message.headers, content=message.body)
        assert (again.status_code, again.json()["index"]) == (200, 1)
        entry = httpx.get(f"{url}/events/1").json()
        assert {name: entry[name] for name in ("id", "source", "subject", "time", "classification")} == {
            "id": "1",
            "source": "urn:example:地方",
            "subject": '100% "金" ☃',
            "time": "2026-11-24T01:53:35Z",
            "classification": "internal",
        }


def test_both_modes_of_the_sdk_are_the_same_event() -> None:
    """What is posted structured is found again when it is posted in binary mode, where the data's bytes agree."""
    event = CloudEvent({"id": "1", "source": "urn:x", "type": "t.v1", "datacontenttype": "text/plain"}, "plain 金")
    with served_in_a_thread() as url:
        answers = []
        for encode in (to_structured_event, to_binary_event):
            message = encode(event)
            answers.append(httpx.post(f"{url}/events", headers=message.headers, content=message.body))
        assert [answer.status_code for answer in answers] == [201, 200], answers[1].text
        assert answers[1].json()["index"] == answers[0].json()["index"]


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    limits = HttpLimits(
        publish_every_s=0.05, stream_life_s_max=0.02, keep_alive_s=0.01, body_timeout_s=20, batch_events_max=20
    )
    with served_in_a_thread(limits=limits) as url:
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("schemathesis")),
                f"--config-file={ROOT / 'tests' / 'support' / 'schemathesis.toml'}",
                "run",
                f"{url}/openapi.json",
                "--checks=all",
                "--max-examples=4",
                "--seed=2026",
                "--workers=1",
                "--request-timeout=10",
                "--generation-database=none",
                "--no-color",
            ],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": "tests.support.schemathesis_hooks", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
        ready = httpx.get(f"{url}/readyz")
        assert json.loads(ready.content)["status"] == "ready"
