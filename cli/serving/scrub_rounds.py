"""Scrubbing while a ledger is served: every site all the time, each full cycle spread over the time it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge

from cli.display.logs import get_logger
from cli.sites.scrubbing import Counted, Recording, Wanted, last_scrub, scrub_site
from cli.system import SystemClock
from cli.wiring.ledgers import WritableLedger
from ledger.acknowledging import Acknowledging
from ledger.core.event import Event, event_time_us
from ledger.errors import Fenced, JinshiError
from replication.scrub import Finding

RETRY_S: Final = 60.0
"""After a cycle that could not be finished, or right after one that was: at least."""


class ScrubMetrics:
    """What is counted of the scrubs, for each site."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, about: str) -> Counter:
            return Counter(f"jinshi_scrub_{name}", about, ("site",), registry=registry)

        self.objects = counter("objects", "Objects of a site that were read and checked.")
        self.bytes = counter("bytes", "Their bytes.")
        self.damaged = counter("damaged", "Objects that were not as signed for.")
        self.healed = counter("healed", "Those of them that were replaced by proven bytes.")
        self.age = Gauge(
            "jinshi_scrub_age_seconds",
            "Since the last full cycle over a site was finished; NaN: there was none.",
            ("site",),
            registry=registry,
        )


def scrub_rounds(
    writable: WritableLedger,
    registry: CollectorRegistry,
    acknowledging: Acknowledging,
    passphrase: str,
    every_s: float,
) -> list[Coroutine[Any, Any, None]]:
    """One for each site, for as long as the ledger is served; none when `every_s` is 0. Raises Fenced."""
    if not every_s:
        return []
    metrics = ScrubMetrics(registry)
    sites = (site for site in writable.ledger.settings.sites if not site.offline)
    return [_Rounds(writable, metrics, acknowledging, passphrase, every_s, site.name).run() for site in sites]


class _Rounds:
    def __init__(
        self,
        writable: WritableLedger,
        metrics: ScrubMetrics,
        acknowledging: Acknowledging,
        passphrase: str,
        every_s: float,
        name: str,
    ) -> None:
        self._acknowledging = acknowledging
        self._writable = writable
        self._metrics = metrics
        self._passphrase = passphrase
        self._every_s = every_s
        self._name = name
        self._problem = ""
        self._finished_s: float | None = None

    async def run(self) -> None:
        """Cycle after cycle. Raises Fenced: another primary has taken over."""
        ledger, counted = self._writable.ledger, Counted(self._read, self._found)
        self._metrics.age.labels(self._name).set_function(self._age_s)
        wanted = Wanted(cycle_s=self._every_s)
        while True:
            begun_s = SystemClock().now().timestamp()
            try:
                self._took_note(await last_scrub(ledger, self._name))
                recording: Recording = self._record
                done = await scrub_site(ledger, self._name, self._passphrase, wanted, recording, counted=counted)
                self._took_note(done.report.finished)
                self._problem = ""
                get_logger().info(
                    "scrubbed",
                    site=self._name,
                    objects=done.report.objects,
                    found=done.report.found,
                    healed=done.report.healed,
                )
            except Fenced:
                raise
            except JinshiError as error:
                if str(error) != self._problem:  # that it goes on as it went is no news
                    self._problem = str(error)
                    get_logger().error(f"not scrubbed: {error.what}", site=self._name, hint=error.hint)
            took_s = SystemClock().now().timestamp() - begun_s
            await asyncio.sleep(max(0.0, min(RETRY_S, self._every_s) - took_s))

    async def _record(self, event: Event) -> int:
        places = await self._writable.sequencer.append([event], actor=self._writable.ledger.environment.actor)
        return places[0].index

    def _read(self, size: int) -> None:
        self._metrics.objects.labels(self._name).inc()
        self._metrics.bytes.labels(self._name).inc(size)

    def _found(self, finding: Finding) -> None:
        self._metrics.damaged.labels(self._name).inc()
        # An alarm at once; the cycle's recorded result clears it when all is whole (cli/sites/scrub_alarms.py).
        self._acknowledging.damaged(self._name, f"{finding.key}: {finding.what}")
        log = get_logger()
        if finding.healed:
            self._metrics.healed.labels(self._name).inc()
            log.warning(f"healed: {finding.what}", site=self._name, detail=finding.detail)
        else:
            log.error(finding.what, site=self._name, hint=finding.detail)

    def _took_note(self, finished: str) -> None:
        if finished:
            self._finished_s = event_time_us(finished) / 1_000_000

    def _age_s(self) -> float:
        return float("nan") if self._finished_s is None else SystemClock().now().timestamp() - self._finished_s
