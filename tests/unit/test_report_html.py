"""The HTML report: whatever a copy, a name or an entry says is text in it, and nothing else."""

from __future__ import annotations

from html.parser import HTMLParser

from cli.report_html import report_html
from ledger.auditor import AuditReport, Check, Finding, Outcome

HOSTILE = "<script>alert('x')</script>\"'&<img src=x onerror=y>\x1b[2J\u202e"


def test_hostile_texts_stay_texts() -> None:
    check = Check(HOSTILE, Outcome.FAILED, HOSTILE, (Finding(HOSTILE, HOSTILE),), more=3)
    data = report_html(AuditReport(HOSTILE, HOSTILE, 1, HOSTILE, HOSTILE, 1, 1, (check,)))
    seen, texts = set[str](), list[str]()

    class Parser(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            seen.add(tag)

        def handle_data(self, data: str) -> None:
            texts.append(data)

    parser = Parser()
    parser.feed(data)
    parser.close()
    assert not seen & {"script", "img"}
    assert sum("alert('x')" in text for text in texts) >= 5
    assert "and 3 more" in texts
    assert not any(mark in data for mark in ("\x1b", "\u202e"))
