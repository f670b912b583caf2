"""A ledger and a site that no line leads to, with a directory in between that is carried to and fro."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ledger.core.checkpoint import origin_prefix, parse_checkpoint
from tests.support.cli import Jinshi, Ran, events

SITE = "archive"


@dataclass(frozen=True)
class Carried:
    """`primary` has the site `archive`, whose place, key and mirror's memory only `there` knows."""

    primary: Jinshi
    there: Jinshi
    usb: Path

    @property
    def home(self) -> Path:
        return self.there.directory

    @property
    def vault(self) -> Path:
        return self.home / "vault"

    @property
    def key(self) -> Path:
        return self.home / f"{SITE}.mirror.key"

    @property
    def trust(self) -> Path:
        """What the primary has given: not what it says now."""
        return self.home / "trust.policy"

    @property
    def origin(self) -> str:
        return str(self.primary("status", "--json").json["origin"])

    @property
    def objects(self) -> Path:
        return self.vault / origin_prefix(self.origin)[:-1]

    @property
    def receipt(self) -> Path:
        return next(self.usb.glob("*.receipt"))

    def append(self, count: int, first: int) -> None:
        self.primary("append", stdin=events(count, first=first))

    def export(self, *more: object, code: int | tuple[int, ...] = 0, to: Path | None = None) -> Ran:
        return self.primary("media", "export", SITE, to or self.usb, *more, code=code)

    @property
    def import_command(self) -> tuple[object, ...]:
        return ("--site", self.vault, "--key", self.key, "--trust", self.trust)

    def take_in(self, *more: object, code: int | tuple[int, ...] = 0, medium: Path | None = None) -> Ran:
        return self.there("media", "import", medium or self.usb, *self.import_command, *more, code=code)

    def bring_back(self, code: int = 0) -> Ran:
        return self.primary("media", "receipt", self.receipt, code=code)

    def cosigned(self) -> int:
        """What the site itself shows."""
        try:
            return parse_checkpoint((self.objects / "checkpoint").read_bytes()).checkpoint.size
        except FileNotFoundError:
            return 0

    def known(self) -> dict[str, object]:
        """What the primary's status says of the site."""
        (site,) = [one for one in self.primary("status", "--json").json["sites"] if one["name"] == SITE]
        return dict(site)

    def media(self) -> list[Path]:
        """What was written, oldest first."""
        return sorted(path for path in self.usb.iterdir() if path.is_dir())


def carried(primary: Jinshi, *options: str, name: str = "elsewhere") -> Carried:
    """Add the site to a ledger: made there, with these options, carried as a file, added here."""
    assert primary.ledger
    home, usb = primary.directory / name, primary.directory / f"usb-{name}"
    home.mkdir()
    usb.mkdir()
    made = Carried(primary, Jinshi(home), usb)
    made.trust.write_bytes((primary.ledger / "trust.policy").read_bytes())
    asked = usb / "asked.receipt"
    shown = made.there("media", "init", SITE, *made.import_command, "--receipt", asked, *options).out
    added = primary("site", "add", SITE, asked, "--offline").out
    (fingerprint,) = [line.rpartition(": ")[2] for line in shown.splitlines() if "fingerprint" in line]
    assert len(fingerprint) == 39
    assert fingerprint in added
    asked.unlink()
    return made


@contextmanager
def flipped(file: Path, position: int) -> Iterator[None]:
    """One bit of a file is another, for as long as the block runs."""
    data = file.read_bytes()
    changed = bytearray(data)
    changed[position] ^= 1
    file.write_bytes(bytes(changed))
    try:
        yield
    finally:
        file.write_bytes(data)
