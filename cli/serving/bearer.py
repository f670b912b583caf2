"""Access tokens as the ledger's API takes them: bound to the certificate of the connection they come on."""

from __future__ import annotations

from typing import Any

from cli.serving.tls import fingerprint_of_scope
from ledger.errors import InvalidRequest
from ledger.http.bearer import Accept, not_valid
from pki.access.tokens import Tokens


def accepting(tokens: Tokens) -> Accept:
    """What `Service.tokens` is set to."""

    async def accept(scope: Any, token: str) -> frozenset[str]:
        try:
            return await tokens.accept(token, fingerprint_of_scope(scope))
        except InvalidRequest as error:  # NotPermitted, or no certificate on the connection
            raise not_valid(error.what, hint=error.hint) from error

    return accept
