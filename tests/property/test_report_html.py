"""The HTML report: whatever a copy, a name or an entry says is text in a well-formed document, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from cli.display.render import moment, one_line
from cli.display.report_html import report_html
from ledger.auditor import AuditReport, Check, Finding, Outcome

HOSTILE = "<script>alert('x')</script>\"'&<img src=x onerror=y>\x1b[2J\u202e]]>--><!--\0\ud800"
VOID = {"meta"}
ATTRIBUTES = {"lang", "charset", "name", "content", "http-equiv", "class", "scope"}

texts = st.one_of(
    st.text(alphabet=st.characters(codec=None), max_size=60),
    st.text(alphabet="<>&\"'/=!-;#xabscript \n\r\t\0\x1b\u202e", max_size=60),
    st.just(HOSTILE),
)
findings = st.builds(Finding, key=texts, what=texts)
checks = st.builds(
    Check,
    name=texts,
    outcome=st.sampled_from(Outcome),
    detail=texts,
    findings=st.lists(findings, max_size=3).map(tuple),
    more=st.integers(0, 5),
)
reports = st.builds(
    AuditReport,
    what=texts,
    origin=texts,
    site=st.none() | texts,
    size=st.integers(0, 2**63),
    root=texts,
    started=texts,
    took_ms=st.integers(0, 10**9),
    processes=st.integers(1, 64),
    checks=st.lists(checks, max_size=4).map(tuple),
)


class Outline(HTMLParser):
    """The elements, attributes and texts of a document; every element must be closed in order."""

    def __init__(self, document: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[str] = []
        self.attributes: set[str] = set()
        self.texts: dict[str, list[str]] = {}
        self.policy = self.style = ""
        self.feed(document)
        self.close()
        assert self.open == [], "everything is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        values = dict(attrs)
        assert len(values) == len(attrs), "no attribute stands twice"
        self.attributes |= values.keys()
        self.policy = values["content"] or "" if "http-equiv" in values else self.policy
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        raise AssertionError(f"<{tag}/> is no HTML")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data!r}")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError(f"a declaration: {data!r}")

    def handle_pi(self, data: str) -> None:
        raise AssertionError(f"an instruction: {data!r}")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)
            self.style += data if self.open[-1] == "style" else ""


def expected_elements(report: AuditReport) -> list[str]:
    """What the document has, whatever is in it: one row a check, one item a finding."""
    rows: list[str] = []
    for check in report.checks:
        rows += ["tr", "th", "td", "td"]
        items = ["li", "code"] * len(check.findings) + ["li"] * (check.more > 0)
        rows += ["ul", *items] if items else []
    return rows


@given(reports)
def test_hostile_texts_stay_texts_in_a_well_formed_document(report: AuditReport) -> None:
    document = report_html(report)
    document.encode("utf-8")
    parsed = Outline(document)
    assert parsed.attributes <= ATTRIBUTES, "nothing is loaded, and nothing runs"
    at = parsed.elements.index("tbody") + 1
    assert parsed.elements[at:] == expected_elements(report)
    assert "script" not in parsed.elements
    names = [one_line(check.name) for check in report.checks]
    shown = "\0".join(parsed.texts.get("th", []))
    assert all(name in shown for name in names)
    cells, listed = "\0".join(parsed.texts.get("td", [])), "\0".join(parsed.texts.get("li", []))
    for check in report.checks:
        assert one_line(check.detail) in cells
        for finding in check.findings:
            assert one_line(finding.what) in listed
            assert one_line(finding.key) in "\0".join(parsed.texts.get("code", []))
    facts = "\0".join(parsed.texts["dd"])
    for text in (report.what, report.origin, report.root, moment(report.started)):
        assert one_line(text) in facts
    assert not re.search(
        "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", document
    )


@given(reports)
def test_only_the_style_that_is_in_it_is_allowed(report: AuditReport) -> None:
    """Content-Security-Policy: by its digest, so that no other style, and no script at all, has any effect."""
    parsed = Outline(report_html(report))
    digest = base64.b64encode(hashlib.sha256(parsed.style.encode()).digest()).decode()
    assert parsed.policy == f"default-src 'none'; style-src 'sha256-{digest}'"


def test_it_can_be_read_when_printed() -> None:
    """On paper: no colour alone tells an outcome, no row is torn apart, nothing is cut off."""
    check = Check("entries", Outcome.FAILED, "all", (Finding("entry 5", "changed"),), more=3)
    document = report_html(AuditReport("x", "o", None, 6, "00", "2026-11-24T00:00:00Z", 5, 1, (check,)))
    parsed = Outline(document)
    assert "FAILED" in parsed.texts["td"], "in words"
    assert "and 3 more" in parsed.texts["li"]
    assert "@media print" in parsed.style
    assert "break-inside: avoid" in parsed.style
    assert "overflow-wrap: anywhere" in parsed.style
    assert parsed.elements[:2] == ["html", "head"]
    assert document.startswith("<!DOCTYPE html>\n<html lang=")
