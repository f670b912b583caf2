"""The REST of the registration as `jinshi serve` mounts it: who is calling, and receipts from the served ledger."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from starlette.routing import Route

from cli.trust.registering import RegistrationServices
from ledger.core.proof import format_receipt
from ledger.http.service import Service
from pki.access.base import Caller
from pki.http.registration import RegistrationService, routes
from pki.views.catalogue import TrustIndex
from pki.views.profiles import all_profiles


def registration_routes(
    services: RegistrationServices, index: TrustIndex, served: Service, caller_of: Callable[[Any], Caller]
) -> list[Route]:
    """The REST of the registration, for the application that serves the ledger; before its own routes, for speed."""

    async def receipts(indexes: Sequence[int]) -> list[str]:
        await served.publishing.until_published(max(indexes))
        cosigned = await served.quorum.newest()
        if cosigned is not None and cosigned.checkpoint.size <= max(indexes):
            cosigned = None
        return [format_receipt(await served.reader.prove(one, cosigned)).decode() for one in indexes]

    return routes(
        RegistrationService(
            services.registration, services.holders, caller_of, lambda: all_profiles(index.book), receipts
        )
    )
