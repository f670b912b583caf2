"""An audit's report as one HTML file: no script, nothing loaded from elsewhere, readable on paper."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from cli.display.render import count, duration, moment, one_line
from ledger.auditor import AuditReport, Check, Outcome

_STYLE = """
body { font: 16px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; color: #1a1a1a; background: #fff;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; margin-bottom: .2rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem }
dt { color: #555 } dd { margin: 0; overflow-wrap: anywhere }
table { border-collapse: collapse; width: 100% }
caption { text-align: left; font-weight: 600; padding: .5rem 0 }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem; border-bottom: 1px solid #ddd }
th[scope=row] { font-weight: 600; width: 12rem } td { overflow-wrap: anywhere }
.outcome { white-space: nowrap; font-weight: 600 }
.passed { color: #0b6b2e } .failed { color: #b00020 } .not-run { color: #6b5900 }
.verdict { padding: .6rem .8rem; border-left: .4rem solid currentColor }
code { font: .9em ui-monospace, monospace } ul { margin: .3rem 0 0; padding-left: 1.2rem }
@media print { body { margin: 0; max-width: none; font-size: 11pt } tr { break-inside: avoid } }
"""
_STYLE_DIGEST = base64.b64encode(hashlib.sha256(_STYLE.encode("utf-8")).digest()).decode("ascii")
"""The one style that a browser may apply (Content Security Policy Level 3): nothing that got in could add another."""

_WORDS = {Outcome.PASSED: "passed", Outcome.FAILED: "FAILED", Outcome.NOT_RUN: "not run"}


def report_html(report: AuditReport) -> str:
    """The report as a whole HTML document. What entries say stands in it as text only."""
    if report.passed:
        verdict, kind = f"Every check that ran passed ({report.count(Outcome.PASSED)}).", "passed"
    else:
        verdict, kind = f"{count(len(report.failed), 'check')} FAILED.", "failed"
    facts = {
        "Audited": report.what,
        "Origin": report.origin,
        "Entries": f"{report.size:,}",
        "Root": report.root,
        "Started": moment(report.started),
        "Took": f"{duration(report.took_ms / 1_000)}, in {count(report.processes, 'process', 'processes')}",
        "Checks": ", ".join(f"{report.count(outcome)} {outcome.value}" for outcome in Outcome),
    }
    listed = "\n".join(f"<dt>{escape(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts.items())
    rows = "\n".join(_row(check) for check in report.checks)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{_STYLE_DIGEST}'">
<title>Audit of {_text(report.what)}</title>
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1>Audit report</h1>
<p class="verdict {kind}"><strong>{_text(verdict)}</strong></p>
<dl>
{listed}
</dl>
<table>
<caption>What was checked, and what was not and why</caption>
<thead><tr><th scope="col">Check</th><th scope="col">Outcome</th><th scope="col">What</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>
</main>
</body>
</html>
"""


def _row(check: Check) -> str:
    kind = check.outcome.value.replace(" ", "-")
    findings = "".join(f"<li><code>{_text(one.key)}</code>: {_text(one.what)}</li>" for one in check.findings)
    more = f"<li>and {check.more:,} more</li>" if check.more else ""
    listed = f"<ul>{findings}{more}</ul>" if findings or more else ""
    return (
        f'<tr><th scope="row">{_text(check.name)}</th>'
        f'<td class="outcome {kind}">{_WORDS[check.outcome]}</td><td>{_text(check.detail)}{listed}</td></tr>'
    )


def _text(text: str) -> str:
    return escape(one_line(text), quote=True)
