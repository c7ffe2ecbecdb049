"""The README of an export, followed on a second machine image with only public tools.

Run as root: ``python tests/image/second_image.py [--root DIR]``. It makes three exports (signed by a
key, a certificate and a Sigstore identity), a fresh Debian with debootstrap from the mirror that
this machine uses, installs python3-venv, openssl and the packages that the README names with pip's
settings of this machine, copies the exports there, and runs every step of the README in it, without
a network. Then it flips single bytes, and says which steps fail and which should have. Exit status 0
when every step did what it should.
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path[:0] = [str(HERE.parents[1])]
TOOLS = "/opt/tools"
PLACE = "/srv/exports"
STEPS = ("keys", "list", "bytes", "signature", "policy", "sbom", "deployed")
SCRIPTS = ("ledger", "documents", "lineage")
FLIPS = {
    "model.pt": {"bytes", "signature", "ledger"},
    "stac/model-item.json": {"bytes", "signature", "ledger"},
    "provenance/provenance.json": {"bytes", "signature", "ledger"},
    "sbom.spdx.json": {"bytes", "signature", "ledger"},
    ".evidence/release.sig": {"bytes", "signature"},
    "ledger/ledger_snapshot.json": {"bytes", "ledger"},
    "provenance/deployed.json": {"bytes", "deployed"},
    "provenance/deployed.intoto.json": {"bytes", "deployed"},
    "policy/policy.json": {"bytes", "policy"},
    "policy/regions_public.json": {"bytes"},
    "attestations/*": {"bytes", "ledger"},
    "export.json": {"list", "bytes"},
    "SHA256SUMS": {"list", "bytes"},
    "export.intoto.json": {"list"},
    "README.md": {"bytes"},
}
"""File -> the steps that must fail."""
MAY_FAIL = {"documents", "sbom", "lineage"}
"""They read documents as they are: whether one is still well formed depends on the byte."""


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in words], check=True, text=True, capture_output=True, **options
    )


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def mirror() -> tuple[str, str]:
    """Return suite and mirror as apt of this machine has them."""
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    suite = release["VERSION_CODENAME"].strip('"')
    files = [Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")]
    text = "\n".join(path.read_text() for path in files if path.is_file())
    for stanza in text.split("\n\n"):
        fields = dict(re.findall(r"^(\w+):\s*(.+)$", stanza, re.MULTILINE))
        if suite in fields.get("Suites", "").split():
            return suite, fields["URIs"].split()[0]
    found = re.search(rf"^deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+{suite}\s", text, re.MULTILINE)
    if found is None:
        raise SystemExit(f"apt of this machine names no mirror of {suite}")
    return suite, found[1]


def bootstrap(root: Path) -> None:
    """Make a fresh Debian."""
    if shutil.which("debootstrap") is None:
        say("debootstrap is missing; apt-get install debootstrap")
        run("apt-get", "-q", "install", "-y", "--no-install-recommends", "debootstrap")
    suite, source = mirror()
    packages = "python3,python3-venv,openssl,ca-certificates"
    run("debootstrap", "--variant=minbase", f"--include={packages}", suite, root, source)


def pip_settings(root: Path, stack: ExitStack) -> dict[str, str]:
    """Give the image pip's settings of this machine; return those of the environment."""
    told = run(sys.executable, "-m", "pip", "config", "debug").stdout
    files = [Path(p) for p in re.findall(r"^\s+(\S+), exists: True$", told, re.MULTILINE)]
    merged = configparser.RawConfigParser()
    merged.read(files)
    with (root / "etc" / "pip.conf").open("w") as stream:
        merged.write(stream)
    text = (root / "etc" / "pip.conf").read_text()
    environ = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    folders = set(
        re.findall(r"(?:file://|(?<=[\s=]))(/[^\s:,]+)", f"{text} {' '.join(environ.values())}")
    )
    for name in sorted(folders):
        here = Path(name)
        if here.is_file():
            (root / name[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(here, root / name[1:])
        elif here.is_dir():
            # What an index is made of may lie beside it.
            here = here.parent if here.name == "simple" else here
            target = root / str(here)[1:]
            target.mkdir(parents=True, exist_ok=True)
            run("mount", "--bind", here, target)
            stack.callback(run, "umount", target)
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")
    return environ


def install(root: Path, readme: str) -> None:
    """Install what the README names, as it says."""
    (line,) = re.findall(r"^pip install (.+)$", readme.split("## 0.", maxsplit=1)[0], re.MULTILINE)
    say(f"installing {line}")
    with ExitStack() as stack:
        environ = pip_settings(root, stack)
        inside(root, f"python3 -m venv {TOOLS} && {TOOLS}/bin/pip install -q {line}", environ)


def inside(root: Path, line: str, environ: dict[str, str]) -> None:
    done = subprocess.run(
        ["/usr/sbin/chroot", str(root), "bash", "-euc", line],
        env={**environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"},
        check=False,
        text=True,
        capture_output=True,
    )
    if done.returncode:
        raise SystemExit(f"{line}: {done.stderr[-2000:]}")


def step(root: Path, folder: str, line: str) -> subprocess.CompletedProcess[str]:
    """Run one step of the README in the image, with no network interface but a dead loopback."""
    path = f"{TOOLS}/bin:/usr/bin:/bin"
    command = f"cd {shlex.quote(folder)} && {line}"
    return subprocess.run(
        [
            "/usr/bin/unshare",
            "--net",
            "/usr/sbin/chroot",
            str(root),
            "bash",
            "-euo",
            "pipefail",
            "-c",
            command,
        ],
        env={"PATH": path, "HOME": "/root"},
        check=False,
        text=True,
        capture_output=True,
    )


def steps_of(root: Path, export: Path) -> dict[str, str]:
    """Return every step by name; the scripts are saved in the image, outside the export."""
    from cli.export_world import blocks

    found = dict(zip(STEPS, blocks(export, "sh"), strict=True))
    for name, script in zip(SCRIPTS, blocks(export, "python"), strict=True):
        (root / "root" / f"{export.name}-{name}.py").write_text(script)
        found[name] = f"python /root/{export.name}-{name}.py"
    return found


def check(root: Path, export: Path) -> int:
    """Run every step on a good export; return how many did not pass."""
    wrong = 0
    for name, line in steps_of(root, export).items():
        done = step(root, f"{PLACE}/{export.name}", line)
        wrong += bool(done.returncode)
        said = (
            done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or ["(quiet)"]
        )[-1]
        say(f"  {'pass' if not done.returncode else 'FAIL'}  {name:10} {said[:100]}")
        if done.returncode:
            say(done.stderr[-1500:])
    return wrong


def flip(path: Path) -> int:
    """Flip one bit where it says something: in a payload, or in the middle."""
    data = bytearray(path.read_bytes())
    at = len(data) // 2
    for mark in (b'"payload":"', b'\\"payload\\":\\"', b'"model_name":"'):
        at = data.find(mark) + len(mark) + 4 if mark in data else at
    data[at] ^= 1
    path.write_bytes(data)
    return at


def flips(root: Path, export: Path) -> int:
    """Flip one byte of one file after the other; return how often the wrong steps failed."""
    steps, wrong = steps_of(root, export), 0
    (release,) = (p.parent for p in export.rglob("MLmodel"))
    for name, wanted in FLIPS.items():
        copy = root / PLACE[1:] / "flipped"
        shutil.copytree(export, copy)
        place = f"{release.relative_to(export)}"
        inner = f"{place}{name}" if name.startswith(".") else f"{place}/{name}"
        path = min([*copy.glob(name), *copy.glob(inner)])
        at = flip(path)
        failed = {
            key for key, line in steps.items() if step(root, f"{PLACE}/flipped", line).returncode
        }
        good = wanted <= failed <= wanted | MAY_FAIL
        wrong += not good
        say(
            f"  {'found ' if good else 'MISSED'} {path.relative_to(copy)} byte {at}: "
            f"fails {', '.join(sorted(failed)) or 'nothing'}"
        )
        shutil.rmtree(copy)
    return wrong


def main() -> int:
    from cli.export_world import exported
    from registry.world import make_world

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="Keep the image here, or use the one that is.")
    options = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("debootstrap and chroot need root")
    with tempfile.TemporaryDirectory(prefix="kfm-image-") as folder:
        root = options.root or Path(folder) / "root"
        if not (root / "etc" / "debian_version").is_file():
            bootstrap(root)
        version = (root / "etc" / "debian_version").read_text().strip()
        say(f"a fresh Debian {version}, {subprocess.getoutput(f'du -sh {root}').split()[0]}")
        (Path(folder) / "exports").mkdir()
        with (Path(folder) / "log").open("w") as log, redirect_stdout(log), redirect_stderr(log):
            world = make_world(Path(folder) / "world")
            with exported(world, Path(folder) / "exports") as found:
                made = dict(found.made)
        if not (root / TOOLS[1:]).is_dir():
            install(root, (made["key"] / "README.md").read_text())
        shutil.rmtree(root / PLACE[1:], ignore_errors=True)
        (root / PLACE[1:]).mkdir(parents=True)
        wrong = 0
        for kind, export in made.items():
            shutil.copytree(export, root / PLACE[1:] / kind)
            say(f"{kind}:")
            wrong += check(root, export)
        say("one flipped bit each:")
        wrong += flips(root, made["key"])
        left = step(root, "/", "python -c 'import kfm_mlflow'").stderr.strip().splitlines()[-1]
        say(f"in the image: {left}")
    say("everything did what it should" if not wrong else f"{wrong} did not")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
