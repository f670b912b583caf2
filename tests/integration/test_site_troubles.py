"""What goes wrong with a bucket that has long been a site: named with the site and what to do, and the others go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from threading import Thread

import pytest

from tests.support.buckets import client_of, new_bucket
from tests.support.certificates import Authority
from tests.support.cli import Jinshi, ledger_in
from tests.support.servers import S3Server, free_ports

ENTRIES = 20
SAYS = '<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message><Resource>/</Resource></Error>'


class Site:
    """A ledger with a directory and a bucket as its sites, both up to date."""

    def __init__(self, server: S3Server, directory: Path) -> None:
        self.server = server
        self.client = client_of(server)
        self.bucket = new_bucket(self.client, versions=True)
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.jinshi = ledger_in(directory, "--no-sites").with_environment(
            AWS_ACCESS_KEY_ID=server.access_key, AWS_SECRET_ACCESS_KEY=server.secret_key, AWS_CA_BUNDLE=None
        )
        self.jinshi("site", "add", "cloud", self.url(), "--accept", "lock")
        self.jinshi("site", "add", "near", directory / "near")
        self.appended = 0
        self.grow()
        self.jinshi("replicate", "--once")

    def url(self, *, endpoint: str = "", bucket: str = "", region: str = "") -> str:
        more = f"&region={region}" if region else ""
        return f"s3://{bucket or self.bucket}/site?endpoint={endpoint or self.server.endpoint}{more}"

    def grow(self) -> None:
        events = (
            json.dumps({"specversion": "1.0", "id": str(number), "source": "urn:x", "type": "thing.happened.v1"})
            for number in range(self.appended, self.appended + ENTRIES)
        )
        self.jinshi("append", stdin="\n".join(events).encode())
        self.appended += ENTRIES

    def move(self, url: str) -> None:
        """As an operator who edits the settings, or a name server that does."""
        file = self.jinshi.ledger / "jinshi.json"
        settings = json.loads(file.read_text())
        next(site for site in settings["sites"] if site["name"] == "cloud")["url"] = url
        file.write_text(json.dumps(settings))


@pytest.fixture(scope="module")
def site(seaweed: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One for all: every test leaves it as it found it, and proves so."""
    return Site(seaweed, tmp_path_factory.mktemp("troubles"))


@contextmanager
def answering(status: int, code: str, context: SSLContext | None = None) -> Iterator[str]:
    """An S3 server that refuses everything in AWS's words; those that no server at hand says."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = SAYS.format(code=code).encode() if self.command != "HEAD" else b""
            self.send_response(status)
            self.send_header("content-type", "application/xml")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815 (names of http.server)

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"{'http' if context is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(site: Site, jinshi: Jinshi, *said: str, code: int = 4) -> None:
    """One line names the site and what to do; the other site has everything; when it is mended, so has this one."""
    site.grow()
    ended = jinshi("replicate", "--once", code=code)
    for one in ("site cloud", *said):
        assert one in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "site near" in ended.out
    near = {one["name"]: one for one in json.loads(jinshi("status", "--json").out)["sites"]}["near"]
    assert near["lag_entries"] == 0
    site.move(site.url())
    site.jinshi("replicate", "--once")
    site.jinshi("verify", "--site", "cloud")


REFUSALS = (
    (400, "AuthorizationHeaderMalformed", "give the bucket's own region: &region=NAME"),
    (301, "PermanentRedirect", "give the bucket's own region: &region=NAME"),
    (400, "ExpiredToken", "get new credentials for the site"),
    (403, "InvalidAccessKeyId", "check the credentials"),
    (403, "RequestTimeTooSkewed", "set this machine's clock, or the site's"),
)


def test_what_a_store_refuses_is_said_with_what_to_do(site: Site) -> None:
    for status, answer, what_to_do in REFUSALS:
        with answering(status, answer) as endpoint:
            site.move(site.url(endpoint=endpoint, region="eu-nowhere-1"))
            check(site, site.jinshi, what_to_do)


def test_an_endpoint_where_nobody_is(site: Site) -> None:
    (port,) = free_ports(1)
    site.move(site.url(endpoint=f"http://127.0.0.1:{port}"))
    check(site, site.jinshi, "cannot be reached", "check the network and the site")


def test_credentials_that_may_only_read(site: Site) -> None:
    statement = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": ["s3:PutObject"],
        "Resource": [f"arn:aws:s3:::{site.bucket}/*"],
    }
    site.client.put_bucket_policy(
        Bucket=site.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    site.grow()
    ended = site.jinshi("replicate", "--once", code=4)
    assert "site cloud" in ended.stderr
    assert "check the credentials and what they may do" in ended.stderr
    assert "site near" in ended.out
    site.client.delete_bucket_policy(Bucket=site.bucket)
    site.jinshi("replicate", "--once")
    site.jinshi("verify", "--site", "cloud")


def test_the_bucket_of_another_ledger(site: Site, tmp_path: Path) -> None:
    other = Site(site.server, tmp_path / "other")
    site.move(site.url(bucket=other.bucket))
    check(site, site.jinshi, "it is another ledger's site, or none", code=2)
    other.jinshi("verify", "--site", "cloud")


def _untrusted(authority: Authority, stranger: Authority) -> tuple[Authority, timedelta]:
    return stranger, timedelta(hours=1)


def _expired(authority: Authority, stranger: Authority) -> tuple[Authority, timedelta]:
    return authority, timedelta(hours=-1)


@pytest.mark.parametrize("wrong", [_untrusted, _expired])
def test_tls_that_cannot_be_trusted(
    site: Site, tmp_path: Path, wrong: Callable[[Authority, Authority], tuple[Authority, timedelta]]
) -> None:
    ours = Authority(tmp_path)
    issuer, ends_in = wrong(ours, Authority(tmp_path, "Stranger"))
    issued = issuer.issue("127.0.0.1", server=True, ends_in=ends_in)
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate, issued.key)
    with answering(403, "AccessDenied", context) as endpoint:
        site.move(site.url(endpoint=endpoint))
        trusting = site.jinshi.with_environment(AWS_CA_BUNDLE=str(ours.file))
        check(site, trusting, "no trusted TLS connection", "AWS_CA_BUNDLE")


def test_two_sites_that_fail_are_each_named(site: Site) -> None:
    (port,) = free_ports(1)
    site.move(site.url(endpoint=f"http://127.0.0.1:{port}"))
    site.grow()
    shutil.move(site.directory / "near", site.directory / "away")
    ended = site.jinshi("replicate", "--once", code=4)
    assert "site cloud" in ended.stderr
    assert "site near" in ended.stderr
    shutil.move(site.directory / "away", site.directory / "near")
    site.move(site.url())
    site.jinshi("replicate", "--once")
