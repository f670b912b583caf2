"""The HTTP face of a witness: C2SP tlog-witness' add-checkpoint, and what monitors read."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ledger.core.checkpoint import origin_prefix
from ledger.errors import JinshiError
from ledger.http.problems import Refused
from replication.http.common import TEXT, Face, add_checkpoint, make_role_app
from replication.http.wire import AddCheckpoint, format_signatures
from replication.witness import Witness


class WitnessFace:
    """The handlers of one witness, and what is counted of it."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness
        self._prefixes = {origin_prefix(origin)[:-1]: origin for origin in witness.origins}
        self.sizes: dict[str, int] = {}
        self.forks: dict[str, int] = {}

    async def troubles(self) -> list[str]:
        """What is wrong with its memory, log by log; reads all of it anew."""
        found: list[str] = []
        for origin in self._witness.origins:
            try:
                self.sizes[origin] = await self._witness.size(origin)
                self.forks[origin] = await self._witness.forks(origin)
            except JinshiError as error:
                found.append(f"{origin}: {error.what}")
        return found

    def collect(self) -> Iterator[Metric]:
        """The metrics, as prometheus_client wants them."""
        size = GaugeMetricFamily("jinshi_witness_size", "Entries of the last checkpoint cosigned.", labels=["origin"])
        forks = GaugeMetricFamily("jinshi_witness_forks", "Checkpoints kept as evidence of a fork.", labels=["origin"])
        for origin in self._witness.origins:
            size.add_metric([origin], self.sizes.get(origin, 0))
            forks.add_metric([origin], self.forks.get(origin, 0))
        yield size
        yield forks

    async def post_checkpoint(self, request: Request) -> Response:
        """Cosign a checkpoint."""

        async def take(asked: AddCheckpoint) -> bytes:
            origin = asked.opened.checkpoint.origin
            try:
                signatures = await self._witness.add_checkpoint(asked)
            finally:
                if origin in self.sizes:
                    self.forks[origin] = await self._witness.forks(origin)
            self.sizes[origin] = asked.opened.checkpoint.size
            return format_signatures(signatures)

        return await add_checkpoint(request, take)

    async def get_checkpoint(self, request: Request) -> Response:
        """The last checkpoint cosigned, with the log's signature and the witness's."""
        origin = self._prefixes.get(request.path_params["prefix"])
        note = None if origin is None else await self._witness.shown(origin)
        if note is None:
            raise Refused(404, "not-cosigned", "no checkpoint of that log was cosigned here yet")
        return Response(note, 200, {"cache-control": "no-cache"}, TEXT)


def make_witness_app(own: WitnessFace, face: Face) -> Starlette:
    """The ASGI application of one witness."""
    face.registry.register(own)
    routes = [
        Route("/add-checkpoint", own.post_checkpoint, methods=["POST"]),
        Route("/{prefix}/checkpoint", own.get_checkpoint, methods=["GET"]),
    ]
    return make_role_app(face, routes)
