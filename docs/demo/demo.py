"""The main job end to end, on real data: `make demo`, or `python docs/demo/demo.py [DIR]`.

Runs the `jinshi` command as a user would, in a fresh directory that is left there to look at. Any step that does not do
what it should ends the demo with exit code 1.
"""
# ruff: noqa: S603, T201 - it starts only `jinshi`, and printing is what it is for

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "divisions"
JINSHI = Path(sys.executable).with_name("jinshi")
SOURCE = "urn:cn:divisions:areas"
DIVISION = "130502"
WIDTH = 100


class DemoFailed(Exception):
    """A step did not do what it should."""


class Demo:
    """Prints each step and its reason, runs it, and checks how it ended."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.ledger: Path | None = directory / "ledger"
        self._steps = 0

    def step(self, title: str, why: str) -> None:
        """A heading and the reason for what comes."""
        self._steps += 1
        print(f"\n{self._steps}. {title}\n{'-' * (len(title) + 3)}")
        print(textwrap.fill(" ".join(why.split()), WIDTH) + "\n")

    def jinshi(self, *arguments: str, code: int = 0, shows: str = "") -> str:
        """Run `jinshi`, print the command line and what it said. Raises DemoFailed."""
        print(f"$ jinshi {shlex.join(arguments)}", flush=True)
        environment = {**os.environ, "JINSHI_PASSPHRASE": "demo: choose a better one"}
        environment.pop("JINSHI_LEDGER", None)
        if self.ledger is not None:
            environment["JINSHI_LEDGER"] = str(self.ledger)
        done = subprocess.run(
            [JINSHI, *arguments],
            cwd=self.directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        )
        print(textwrap.indent(done.stdout.rstrip(), "    "))
        if done.returncode != code:
            raise DemoFailed(f"jinshi {arguments[0]} ended with {done.returncode}, not {code}")
        if shows not in done.stdout:
            raise DemoFailed(f"jinshi {arguments[0]} did not say {shows!r}")
        if code:
            print(f"    (exit code {code}, as it should be)")
        return done.stdout

    def check(self, holds: bool, what: str) -> None:
        """Print what was compared. Raises DemoFailed when it does not hold."""
        if not holds:
            raise DemoFailed(f"not so: {what}")
        print(f"    checked: {what}")


def record(demo: Demo, editions: list[Path]) -> None:
    demo.step(
        "Create a ledger",
        """A ledger is one directory: an append-only log in SQLite and the key that signs it. Two copies ("sites") are
        set up beside it; in earnest they are in other buildings. The mirror and recovery keys are written apart.""",
    )
    demo.jinshi("init", "ledger", "--origin", "demo.example/divisions", shows="is a ledger")

    demo.step(
        "Record eight published editions of China's county-level divisions",
        """Each edition is a CSV file. Only what changed since the last one is recorded, record by record, and a closing
        event seals the edition with its digest. No copy of the file is stored. A ledger encrypts what it records; these
        are published already, so they are declared public first, and can be read at any site.""",
    )
    demo.jinshi("source", "declare", SOURCE, "--public", shows="public")
    for edition in editions:
        name = edition.parent.name
        arguments = ["--source", SOURCE, "--key", "code", "--edition", name, "--time", f"{name}T00:00:00Z"]
        demo.jinshi("import", os.path.relpath(edition, demo.directory), *arguments, shows="sealed by entry")


def protect(demo: Demo) -> None:
    demo.step(
        "Replicate to both sites",
        """Each site gets every entry and hash. Then the site's mirror, which has a key of its own, checks all of it and
        cosigns: its word does not depend on the primary's.""",
    )
    demo.jinshi("replicate", "--once", shows="verified and cosigned")
    demo.jinshi("status", shows="fine")


def audit(demo: Demo) -> None:
    demo.step(
        f"What became of division {DIVISION}?",
        """In 2020 the district of Qiaodong in Xingtai, Hebei, was renamed Xiangdu. The ledger says what changed, in
        which edition, and who recorded it.""",
    )
    demo.jinshi("history", DIVISION, shows="桥东区 -> 襄都区")

    demo.step(
        "Prove one entry to somebody who trusts nobody here",
        """A receipt, the entry and the trust policy go to an auditor. Verifying them needs no ledger, no network and no
        word of the operator. A single changed byte in the entry is found.""",
    )
    line = demo.jinshi("log", "--subject", DIVISION, "--type", "record.amended.v1")
    index = line.splitlines()[1].split()[0]
    auditor = demo.directory / "auditor"
    auditor.mkdir()
    shutil.copy(demo.directory / "ledger-keys" / "trust.policy", auditor)
    demo.jinshi("prove", index, "-o", "auditor/renamed.tlog-proof", shows="the receipt")
    demo.ledger = None
    receipt, entry = "auditor/renamed.tlog-proof", auditor / "renamed.tlog-proof.entry"
    policy = ["--policy", "auditor/trust.policy"]
    demo.jinshi("verify", receipt, "--entry", "auditor/renamed.tlog-proof.entry", *policy, shows="cosigned by")
    (auditor / "forged.entry").write_bytes(entry.read_bytes().replace("襄都区".encode(), "信都区".encode()))
    demo.jinshi("verify", receipt, "--entry", "auditor/forged.entry", *policy, code=3)
    demo.ledger = demo.directory / "ledger"


def keep_a_tree(demo: Demo, editions: list[Path]) -> None:
    demo.step(
        "Protect a tree of files, and name a moment",
        """The portal's files are an asset: every change to a path becomes an entry, sealed, and its content lies beside
        the log, cut into chunks that are stored once. Its grade says how many sites must have it. Then a mark is set,
        and an upgrade goes wrong.""",
    )
    portal = demo.directory / "portal"
    (portal / "公告").mkdir(parents=True)
    for edition in editions:
        shutil.copy(edition, portal / "公告" / f"{edition.parent.name}.csv")
    (portal / "index.html").write_text("<h1>省政府门户网站</h1>\n", encoding="utf-8")
    (portal / "latest.csv").symlink_to(Path("公告") / f"{editions[-1].parent.name}.csv")
    options = ["--kind", "files", "--grade", "3", "--owner", "portal office", "--group", "portal"]
    demo.jinshi("asset", "add", "portal", *options, "--set", f"path={portal}", shows="portal")
    demo.jinshi("mark", "before-the-upgrade", "--group", "portal", shows="before-the-upgrade")
    shutil.copytree(portal, demo.directory / "as-it-was", symlinks=True)
    (portal / "index.html").write_text("it works!\n", encoding="utf-8")
    shutil.rmtree(portal / "公告")
    demo.jinshi("capture", "portal", shows="portal")
    demo.jinshi("replicate", "--once", shows="verified and cosigned")
    custodian = demo.directory / "custodian"
    custodian.mkdir()
    shutil.copy(demo.directory / "ledger-keys" / "recovery.key", custodian)


def rehearse(demo: Demo) -> None:
    demo.step(
        "Rehearse the worst day",
        """A drill restores from the remote site into a scratch place, compares every entry, rebuilds every edition, and
        measures what would be lost (RPO) and how long it takes (RTO). Its report goes into the ledger.""",
    )
    demo.jinshi("drill", "run", "--from", "remote", shows="passed  identical")


def recover(demo: Demo, published: Path) -> None:
    demo.step(
        "Lose the primary, and restore it from the remote site alone",
        """Ledger, keys and the portal are deleted. What is left is the remote site, the auditor's trust policy and the
        custodian's recovery key, which opens what is sealed. Everything is verified before it is written. The drill's
        report is the one entry that had not been replicated. As nobody can prove that the lost primary signed no more,
        the ledger goes on under a successor name, with a new key.""",
    )
    for name in ("ledger", "ledger-keys", "portal"):
        shutil.rmtree(demo.directory / name)
    print("$ rm -r ledger ledger-keys portal")
    demo.ledger = None
    left = ["--from", "ledger-sites/remote", "--policy", "auditor/trust.policy"]
    left += ["--recovery-key", "custodian/recovery.key"]
    demo.jinshi("restore", "asset", "portal", "--at", "before-the-upgrade", *left, "--to", "portal", shows="portal")
    same = tree_of(demo.directory / "portal") == tree_of(demo.directory / "as-it-was")
    demo.check(same, "the portal is as it was before the upgrade")
    demo.jinshi("restore", "ledger", *left, "--to", "restored", shows="every one verified")
    demo.ledger = demo.directory / "restored"

    name = published.parent.name
    demo.step(
        f"Export the edition of {name} from the restored ledger",
        "It is rebuilt from the recorded changes, and must be byte for byte the file that was published.",
    )
    demo.jinshi("export", "--source", SOURCE, "--at", name, "-o", "exported.csv", shows="byte for byte")
    exported = (demo.directory / "exported.csv").read_bytes()
    print(f"    sha256 exported   {hashlib.sha256(exported).hexdigest()}")
    print(f"    sha256 published  {hashlib.sha256(published.read_bytes()).hexdigest()}")
    demo.check(exported == published.read_bytes(), f"exported.csv is the file published as edition {name}")


def tamper(demo: Demo) -> None:
    demo.step(
        "Flip one byte in a site's copy",
        """The restored ledger gets the same-city site back. Then one bit of one stored object is changed, as a failing
        disk or an intruder would change it. Verifying the site names the object.""",
    )
    demo.jinshi("site", "add", "same-city", "ledger-sites/same-city", shows="is at")
    demo.jinshi("replicate", "--once", shows="verified and cosigned")
    demo.jinshi("verify", "--site", "same-city", shows="is whole")
    # A site holds many ledgers, each under the hash of its name (docs/formats.md, section 3).
    own = demo.directory / "ledger-sites" / "same-city" / hashlib.sha256(b"demo.example/divisions/2").hexdigest()
    victim = own / "tile" / "entries" / "003"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    print(f"    (bit 0 of byte {len(data) // 2} of {victim.relative_to(demo.directory)} is flipped)")
    demo.jinshi("verify", "--site", "same-city", code=3, shows="tile/entries/003")
    demo.jinshi("verify", shows="the ledger is whole")


def tree_of(root: Path) -> dict[str, bytes]:
    """What a tree holds, by path; of a link where it leads."""
    found = {}
    for path in root.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(root))] = bytes(path.readlink())
        else:
            found[str(path.relative_to(root))] = path.read_bytes() if path.is_file() else b""
    return found


def fresh_directory() -> Path:
    """The first of demo/1, demo/2, ... that is not there yet; nothing is overwritten."""
    number = 1
    while (directory := ROOT / "demo" / str(number)).exists():
        number += 1
    return directory


def main() -> int:
    """Run the demo; the exit code says whether every step did what it should."""
    if len(sys.argv) > 2:
        print("usage: demo.py [DIR]", file=sys.stderr)
        return 2
    directory = Path(sys.argv[1]).absolute() if len(sys.argv) == 2 else fresh_directory()
    if directory.exists() or not JINSHI.exists():
        reason = f"{directory} is there already" if directory.exists() else f"{JINSHI} is not there: run make setup"
        print(f"demo: {reason}", file=sys.stderr)
        return 2
    directory.mkdir(parents=True)
    editions = sorted(DATA.glob("*/areas.csv"))
    started = time.monotonic()
    print(f"Jinshi, end to end, in {directory} (it stays there to look at)")
    demo = Demo(directory)
    try:
        record(demo, editions)
        protect(demo)
        audit(demo)
        keep_a_tree(demo, editions)
        rehearse(demo)
        recover(demo, editions[0])
        tamper(demo)
    except DemoFailed as error:
        print(f"\nDEMO FAILED: {error}", flush=True)
        return 1
    print(
        f"\nDemo passed in {time.monotonic() - started:.0f} s: {len(editions)} editions recorded, replicated, audited, "
        "proven offline, drilled, lost, restored from one site, exported byte for byte; a tree came back as it was at "
        "a mark; a flipped byte was caught."
    )
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
