"""Bulk enrolment and notices: a bad row stops no other, nothing is asked for or told twice."""

from __future__ import annotations

from base64 import b64encode

import pytest

from ledger.errors import InvalidRequest, IssuanceRefused, MalformedCsv
from pki.acme.issuing import Wanted
from pki.acme.own import OwnAuthority
from pki.bulk import Outcome, enrol, parse_rows
from pki.ca import CertificateAuthority
from pki.core.request import parse_request
from pki.expiry import Expiry
from tests.support.trust import trust_bench
from tests.support.trust_authorities import city_authority
from tests.support.trust_registration import HOLDER, MAKER, Desk, csr, desk
from tests.support.trust_requests import order

DAY_S = 86_400


def table(*rows: str) -> str:
    return "\n".join(["id,authority,profile,holder,csr,names,CN", *rows])


def row(id_: str, name: str, *, holder: str = HOLDER) -> str:
    return f"{id_},city,tls-server,{holder},{b64encode(csr(f'dns:{name}', key=id_)).decode()},dns:{name},{name}"


def no_file(name: str) -> bytes:
    raise InvalidRequest(f"{name} cannot be read")


async def enrolled(made: Desk, text: str) -> list[Outcome]:
    rows = parse_rows(text, "spring", no_file)
    return [one async for one in enrol(made.registration, MAKER, rows)]


async def test_a_bad_row_is_named_by_its_line_and_stops_no_other() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        made = desk(bench)
        await made.vetted()
        text = table(
            row("a", "a.parks.example"),
            row("b", "b.elsewhere.example"),
            "c,city,tls-server,organisation:parks,no CSR,,",
            "d,city",
            "",
            row("a", "again.parks.example"),
            row("e", "e.parks.example"),
            f"f,city,tls-server,{HOLDER},@/no/such/file,,",
        )
        found = await enrolled(made, text)
        assert [(one.line, one.state) for one in found] == [
            *((2, "issued"), (3, "refused"), (4, "invalid"), (5, "invalid"), (7, "invalid"), (8, "issued")),
            (9, "invalid"),
        ]
        assert "not vetted" in found[1].fault
        assert "line 2" in found[4].fault
        assert "cannot be read" in found[6].fault
        again = await enrolled(made, text)
        assert [one.serial for one in again] == [one.serial for one in found]
        assert len(list(bench.index.certificates.by_holder(bench.index.database, HOLDER))) == 2


def test_a_table_with_other_columns_is_refused_whole() -> None:
    for text in (
        "",
        "id,authority\n",
        "id,authority,profile,holder,csr,colour\n",
        "id,id,authority,profile,holder,csr\n",
    ):
        with pytest.raises(MalformedCsv, match="line 1"):
            list(parse_rows(text, "spring", no_file))
    with pytest.raises(MalformedCsv, match="line 3"):
        list(parse_rows(table(row("a", "a.parks.example"), '"never closed'), "spring", no_file))


async def test_a_certificate_that_ends_is_noticed_once_for_each_threshold_unless_it_was_renewed() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        made = desk(bench)
        await made.vetted()
        serials = [(await made.registration.submit(MAKER, made.wish(key=str(n)))).serial for n in range(2)]
        expiry = Expiry(bench.journal, bench.index)
        ca = CertificateAuthority(bench.journal, bench.index, bench.keys)
        responder = order("ocsp-responder", holder="authority:city")  # for 30 days, and renewed by the service itself
        await ca.issue(await ca.prepare(responder, permit=bench.permit()))
        bench.clock.pass_s(50 * DAY_S)
        assert await expiry.notice() == []
        bench.clock.pass_s(15 * DAY_S)  # 25 days are left
        assert {one.row.serial for one in await expiry.notice()} == set(serials)
        assert await Expiry(bench.journal, bench.index).notice() == []
        renewed = await made.registration.renew(MAKER, "city", serials[0], None)
        bench.clock.pass_s(19 * DAY_S)  # 6 days
        (told,) = await expiry.notice()
        assert (told.row.serial, told.days, told.title) == (serials[1], 6, "公园管理处")
        listed = {one.row.serial: one.renewed async for one in expiry.expiring(10)}
        assert listed == {serials[0]: True, serials[1]: False}
        assert renewed.serial not in listed


async def test_over_acme_too_a_holder_gets_what_was_vetted_and_nothing_while_it_is_suspended() -> None:
    async with trust_bench() as bench:
        await city_authority(bench)
        made = desk(bench)
        await made.vetted(days=30)
        own = OwnAuthority(bench.journal, bench.index, CertificateAuthority(bench.journal, bench.index, bench.keys))

        async def check(name: str) -> None:
            await bench.index.catch_up()
            request = parse_request(csr(name))
            await own.check(
                Wanted("order:1", "city", "tls-server", HOLDER, request, (name,), 0, ""), permit=bench.permit()
            )

        await check("dns:www.parks.example")
        with pytest.raises(IssuanceRefused, match="was not vetted"):
            await check("dns:www.roads.example")
        await made.holders.suspend(MAKER, HOLDER, "the contract is disputed")
        with pytest.raises(IssuanceRefused, match="is suspended"):
            await check("dns:www.parks.example")
        await made.holders.resume(MAKER, HOLDER)
        await check("dns:www.parks.example")
        bench.clock.pass_s(31 * DAY_S)
        with pytest.raises(IssuanceRefused, match="not any more"):
            await check("dns:www.parks.example")
