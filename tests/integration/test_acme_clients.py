"""certbot and lego against the running service: they enrol, renew and revoke, each in the ways it can prove control."""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import josepy
import pytest
from acme import messages
from acme.client import ClientNetwork, ClientV2
from acme.crypto_util import make_csr
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.trust_acme import ADDRESSES, WILDCARDS, AcmeBench, needs_lego, served_bench, unexpected


def certificates(file: Path) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(file.read_bytes())


def state_of(acme: AcmeBench, certificate: x509.Certificate) -> str:
    row = acme.bench.index.certificates.find(acme.bench.index.database, "city", f"{certificate.serial_number:040x}")
    assert row is not None
    return row.state


async def test_certbot_enrols_renews_and_revokes_over_http(tmp_path: Path) -> None:
    async with served_bench(tmp_path) as acme:
        kid, secret = await acme.eab()
        standalone = ("--standalone", "--http-01-port", str(acme.http_port))
        await acme.certbot(
            *("certonly", *standalone, "--agree-tos", "-m", "web@city.example", "--no-eff-email"),
            *("--eab-kid", kid, "--eab-hmac-key", secret, "-d", "a.city.example", "-d", "b.city.example"),
        )
        live = tmp_path / "config" / "live" / "a.city.example"
        first, issuer = certificates(live / "fullchain.pem")
        names = first.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == ["a.city.example", "b.city.example"]
        first.verify_directly_issued_by(issuer)

        await acme.certbot(
            "renew", "--force-renewal", "--no-random-sleep-on-renew", "--http-01-port", str(acme.http_port)
        )
        second = certificates(live / "fullchain.pem")[0]
        assert second.serial_number != first.serial_number

        await acme.certbot(
            "revoke", "--cert-path", str(live / "cert.pem"), "--reason", "keycompromise", "--no-delete-after-revoke"
        )
        await acme.bench.index.catch_up()
        assert (state_of(acme, first), state_of(acme, second)) == ("issued", "revoked")
        assert unexpected(acme.faults) == []


@needs_lego
async def test_lego_enrols_renews_and_revokes_over_http(tmp_path: Path) -> None:
    async with served_bench(tmp_path) as acme:
        kid, secret = await acme.eab()
        who = ("--email", "web@city.example", "--domains", "c.city.example")
        binding = ("--eab", "--kid", kid, "--hmac", secret)
        http = (*who, *binding, "--http", "--http.port", f"127.0.0.1:{acme.http_port}")
        await acme.lego(*http, "run")
        file = tmp_path / "lego" / "certificates" / "c.city.example.crt"
        first = certificates(file)[0]
        await acme.lego(*http, "renew", "--days", "3650", "--no-random-sleep")
        second = certificates(file)[0]
        assert second.serial_number != first.serial_number
        await acme.lego(*http, "revoke", "--reason", "4")
        await acme.bench.index.catch_up()
        assert (state_of(acme, first), state_of(acme, second)) == ("issued", "revoked")
        assert unexpected(acme.faults) == []


@needs_lego
async def test_lego_enrols_over_tls_and_over_dns(tmp_path: Path) -> None:
    async with served_bench(tmp_path) as acme:
        kid, secret = await acme.eab(profiles=[WILDCARDS])
        binding = ("--eab", "--kid", kid, "--hmac", secret)
        who = ("--email", "web@city.example", *binding)
        tls = ("--tls", "--tls.port", f"127.0.0.1:{acme.alpn_port}")
        await acme.lego(*who, "--domains", "d.city.example", *tls, "run")
        assert certificates(tmp_path / "lego" / "certificates" / "d.city.example.crt")

        script = tmp_path / "dns.sh"
        texts = tmp_path / "texts"
        script.write_text(
            f'#!/bin/sh\nname="${{2%.}}"\n[ "$1" = present ] && echo "$3" >> "{texts}/$name" || rm "{texts}/$name"\n'
        )
        script.chmod(0o700)
        dns = ("--dns", "exec", "--dns.disable-cp", "--dns.resolvers", acme.resolver)
        names = ("--domains", "*.e.city.example", "--domains", "e.city.example")
        more = {"EXEC_PATH": str(script), "EXEC_SEQUENCE_INTERVAL": "1"}
        await acme.lego(*who, *names, *dns, "run", more=more)
        assert certificates(tmp_path / "lego" / "certificates" / "_.e.city.example.crt")
        assert not list(texts.iterdir())
        assert unexpected(acme.faults) == []


async def test_certbot_enrols_for_an_address(tmp_path: Path) -> None:
    async with served_bench(tmp_path) as acme:
        kid, secret = await acme.eab(profiles=[ADDRESSES], names=["127.0.0.1"])
        await acme.certbot(
            *("certonly", "--standalone", "--http-01-port", str(acme.http_port), "--agree-tos"),
            *("-m", "web@city.example", "--no-eff-email", "--eab-kid", kid, "--eab-hmac-key", secret),
            *("--ip-address", "127.0.0.1"),
        )
        (found, *_) = certificates(tmp_path / "config" / "live" / "127.0.0.1" / "fullchain.pem")
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.IPAddress(IPv4Address("127.0.0.1"))]
        assert unexpected(acme.faults) == []


async def test_certbot_enrols_over_dns_with_hooks(tmp_path: Path) -> None:
    async with served_bench(tmp_path, profiles={WILDCARDS: "wildcards, too"}) as acme:
        kid, secret = await acme.eab(profiles=["tls-server", WILDCARDS])
        texts = tmp_path / "texts"
        name = "_acme-challenge.$CERTBOT_DOMAIN"
        await acme.certbot(
            *("certonly", "--manual", "--preferred-challenges", "dns", "--agree-tos", "-m", "web@city.example"),
            *("--manual-auth-hook", f'echo "$CERTBOT_VALIDATION" >> "{texts}/{name}"'),
            *("--manual-cleanup-hook", f'rm -f "{texts}/{name}"'),
            *("--no-eff-email", "--eab-kid", kid, "--eab-hmac-key", secret),
            *("--preferred-profile", WILDCARDS),
            *("-d", "*.f.city.example", "-d", "f.city.example"),
        )
        assert certificates(tmp_path / "config" / "live" / "f.city.example" / "cert.pem")
        assert unexpected(acme.faults) == []


async def test_the_library_of_certbot_renews_by_what_it_is_told_and_ends_its_account(tmp_path: Path) -> None:
    async with served_bench(tmp_path) as acme:
        kid, secret = await acme.eab()

        def work() -> None:
            key = josepy.JWKRSA(key=rsa.generate_private_key(65_537, 2_048))
            network = ClientNetwork(key, verify_ssl=str(acme.tls))
            with closing(network.session):
                client = ClientV2(ClientV2.get_directory(acme.directory_url, network), network)
                assert client.external_account_required()
                binding = messages.ExternalAccountBinding.from_data(key.public_key(), kid, secret, client.directory)
                registration = messages.NewRegistration.from_data(
                    email="web@city.example", external_account_binding=binding, terms_of_service_agreed=True
                )
                account = client.new_account(registration)

                order = client.new_order(make_csr(key_pem(), domains=["g.city.example"]))
                [authorization] = order.authorizations
                [challenge] = [one for one in authorization.body.challenges if one.chall.typ == "dns-01"]
                where = (challenge.chall.validation_domain_name("g.city.example"), "TXT")
                acme.zone.records[where] = [f'"{challenge.chall.validation(key)}"']
                client.answer_challenge(challenge, challenge.chall.response(key))
                order = client.poll_and_finalize(order)

                certificate = x509.load_pem_x509_certificate(order.fullchain_pem.encode())
                at, again = client.renewal_time(order.fullchain_pem.encode())
                assert at is not None
                life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
                begin = certificate.not_valid_before_utc + life * 2 / 3
                assert begin <= at <= begin + life / 24
                assert again.astimezone(UTC) > datetime.now(UTC) + timedelta(hours=5)
                client.revoke(certificate, 1)
                at, _ = client.renewal_time(order.fullchain_pem.encode())
                assert at is not None
                assert at <= datetime.now(UTC)
                client.deactivate_registration(account)
                with pytest.raises(messages.Error, match="deactivated"):
                    client.new_order(make_csr(key_pem(), domains=["g.city.example"]))

        await asyncio.to_thread(work)
        assert unexpected(acme.faults) == []


def key_pem() -> bytes:
    key = rsa.generate_private_key(65_537, 3_072)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
