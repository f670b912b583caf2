"""Time stamps over HTTP, as RFC 3161 §3.4 has it."""

from __future__ import annotations

from pathlib import Path

import httpx

from pki.access.refusals import RefusalLog
from pki.http.tsa import QUERY, REPLY, TsaService, routes
from pki.tsa import TimeStampings
from tests.support.trust import trust_bench
from tests.support.trust_served import serving
from tests.support.trust_tsa import NAME, openssl_query, openssl_text, openssl_verify, stamp_authority


async def test_a_file_is_stamped_over_http(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"of the city")
    async with trust_bench() as bench:
        await stamp_authority(bench)
        refusals = RefusalLog(bench.journal, "local:service")
        authorities = TimeStampings(bench.journal, bench.index, bench.keys, "local:service", refusals)
        async with (
            serving(routes(TsaService(authorities.find))) as url,
            httpx.AsyncClient(base_url=url, headers={"content-type": QUERY}, trust_env=False) as client,
        ):
            for path in ("/tsa", f"/tsa/{NAME}"):
                answer = await client.post(path, content=openssl_query(file))
                assert (answer.status_code, answer.headers["content-type"]) == (200, REPLY)
                openssl_verify(bench, answer.content, tmp_path, "-data", str(file))
            nonsense = await client.post("/tsa", content=b"nonsense")
            assert (nonsense.status_code, nonsense.headers["content-type"]) == (200, REPLY)
            assert "data submitted has the wrong format" in openssl_text(nonsense.content, tmp_path)
            assert (await client.post("/tsa", content=b"x" * 100_000)).status_code == 413
            assert (await client.post("/tsa/nobody", content=openssl_query(file))).status_code == 404
            assert (await client.post("/tsa", content=b"", headers={"content-type": "text/plain"})).status_code == 415
            assert (await client.get("/tsa")).status_code == 405
        await authorities.close()
        assert await refusals.flush()  # of what was no request
