"""The client of an S3-compatible store, and what its refusals mean: one line each, and what to do next."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import boto3
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError, ParamValidationError, SSLError
from botocore.loaders import Loader

from ledger.errors import DiskFull, InvalidRequest, JinshiError, ObjectMissing, StoreUnavailable

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CONNECTIONS_MAX = 16

_CONDITION_FAILED = ("PreconditionFailed", "412", "ConditionalRequestConflict", "409")
_FULL = ("InsufficientCapacity", "InsufficientStorage", "QuotaExceeded", "507")
_REGION = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException", "301")
_SAYS = {
    "RequestTimeTooSkewed": "set this machine's clock, or the site's: they differ by more than signatures allow",
    "ExpiredToken": "the session token has expired: get new credentials for the site",
    "InvalidToken": "the session token is not one: get new credentials for the site",
    "InvalidAccessKeyId": "the site does not know this access key: check the credentials",
    "SignatureDoesNotMatch": "check the credentials and what they may do: the secret is not that of the access key",
    "BadDigest": "what arrived is not what was sent: look at the network and what stands in between, then try again",
}
"""What to do about refusals that say themselves what is wrong, by their code."""
_PASSED_IN = {
    **dict.fromkeys(("profile", "config_file", "credentials_file"), (None, None, None, None)),
    "ignore_configured_endpoint_urls": (None, None, True, None),
}
"""Where botocore finds its settings, as (in a file, in the environment, default, conversion): nowhere."""


def make_client(
    *,
    endpoint_url: str | None,
    region: str,
    access_key: str,
    secret_key: str,
    session_token: str | None = None,
    timeout_s: float = 20.0,
    attempts_max: int = 4,
) -> S3Client:
    """A client for one site; a request is tried `attempts_max` times in all, with growing pauses.

    It takes no credentials, region, endpoint or profile from the environment or from the files of the AWS tools: what
    it needs is passed in. (AWS_CA_BUNDLE and the variables for proxies hold, as for every other program.)

    Raises:
        InvalidRequest: endpoint or region cannot be one.
    """
    core = botocore.session.Session(session_vars=_PASSED_IN)
    core.register_component("data_loader", _loader())  # reading the description of S3 takes a while
    session = boto3.session.Session(
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        aws_session_token=session_token,
        region_name=region,
        botocore_session=core,
    )
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts_max},
        connect_timeout=timeout_s / 4,
        read_timeout=timeout_s,
        max_pool_connections=CONNECTIONS_MAX,
        response_checksum_validation="when_required",  # s3.py says where
        # Other stores than AWS's mostly want the bucket in the path. A body goes with its SHA-256 in a header that is
        # signed (s3.py), so it is not hashed a second time, here and by the server, to be signed itself.
        s3={"addressing_style": "path" if endpoint_url else "auto", "payload_signing_enabled": False},
    )
    try:
        client = session.client("s3", endpoint_url=endpoint_url, config=config)
    except (BotoCoreError, ValueError) as error:
        raise InvalidRequest(
            f"no S3 store at {endpoint_url or 'AWS'} in region {region!r} ({one_line(error)})",
            hint="check the endpoint's URL and the region",
        ) from error
    client.meta.events.register("before-call.s3", _follow_no_redirects)
    return client


@cache
def _loader() -> Loader:
    """What botocore knows of S3: read once for all clients of this process, as all of them are asked for the same."""
    return _S3Alone()


class _S3Alone(Loader):
    """Does not look through the descriptions of all other services, which takes longer than to read that of S3."""

    def list_available_services(self, type_name: str) -> list[str]:
        return ["s3"]


def _follow_no_redirects(context: dict[str, Any], **_: object) -> None:
    """A bucket that is elsewhere is told, not followed; and botocore never ends where a redirect names no region."""
    context.setdefault("s3_redirect", {})["redirected"] = True


def condition_failed(error: ClientError) -> bool:
    """Whether a conditional write was refused because its condition does not hold."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return error.response.get("Error", {}).get("Code", "") in _CONDITION_FAILED or status == 412


def explain(error: ClientError | BotoCoreError, *, where: str, bucket: str, key: str) -> JinshiError:
    """What a failed request means, as one of the errors of `ObjectStore`. `where`: the store; `key`: the object."""
    named = f"{where}/{key}"
    if isinstance(error, ClientError):
        return _refused(error, where, bucket, key)
    if isinstance(error, ParamValidationError):
        return StoreUnavailable(f"{named} cannot be asked for ({one_line(error)})", hint="check the site's URL")
    if isinstance(error, FlexibleChecksumError):
        return StoreUnavailable(
            f"{named} did not arrive as it was written (its checksum differs)",
            hint="try again; if it stays so, the site's disk or something in between is damaged",
        )
    if isinstance(error, SSLError):
        return StoreUnavailable(
            f"{named}: no trusted TLS connection ({one_line(error)})",
            hint="check the endpoint's https:// and port, and that AWS_CA_BUNDLE names the CA of its certificate",
        )
    return StoreUnavailable(
        f"{named} cannot be reached ({one_line(error)})", hint="check the network and the site, then try again"
    )


def _refused(error: ClientError, where: str, bucket: str, key: str) -> JinshiError:
    named = f"{where}/{key}"
    said = error.response.get("Error", {})
    code = str(said.get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    reason = one_line(said.get("Message") or code or status)
    if code in ("NoSuchKey", "NoSuchVersion"):
        return ObjectMissing(key, where=where)
    if code in _FULL or status == 507:
        return DiskFull(f"{named} cannot be written ({code})", hint="free space at the site, then run it again")
    if code == "NoSuchBucket" or (error.operation_name == "HeadBucket" and status == 404):
        return StoreUnavailable(f"the bucket {bucket} is not there", hint="check its name, or create it first")
    if code in _SAYS:
        return StoreUnavailable(f"{named}: the store refused ({reason})", hint=_SAYS[code])
    if code in _REGION or status == 301:
        return StoreUnavailable(
            f"{named}: the store refused ({reason})", hint="give the bucket's own region: &region=NAME"
        )
    if status in (401, 403):
        return StoreUnavailable(
            f"{named}: the store refused ({reason})", hint="check the credentials and what they may do"
        )
    if status >= 500 or status == 429:
        return StoreUnavailable(f"{named}: the store failed ({reason})", hint="look at the site, then try again")
    return StoreUnavailable(f"{named}: the store refused ({reason})", hint="check the site's URL and region")


def one_line(what: object) -> str:
    """One line of what a library says in several."""
    return " ".join(str(what).split())
