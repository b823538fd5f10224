"""Cached Debian roots, one per suite and per digest of all that went into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import time
from pathlib import Path

from .inherit import Operator
from .proc import LabError, run, run_long
from .state import Lab, locked

PACKAGES = (
    "systemd,systemd-sysv,dbus,libpam-systemd,libnss-systemd,python3,python3-apt,sudo,ca-certificates,iproute2,"
    "iputils-ping,openssh-server,curl,procps"
)

# Units without sense in a host that shares its kernel, its clock and its devices, and those that take apt's lock unasked.
MASKED = (
    "getty.target",
    "console-getty.service",
    "systemd-firstboot.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
    "systemd-timesyncd.service",
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
)

# Runs in the finished root ($1), with the units to mask. Each host makes an identity of its own.
FINISH = r"""
set -eu
cd "$1"
chroot . update-ca-certificates >/dev/null
rm -f etc/ssh/ssh_host_* etc/hostname etc/resolv.conf var/lib/dbus/machine-id var/cache/apt/*.bin
: >etc/machine-id
shift
for unit; do ln -sf /dev/null "etc/systemd/system/$unit"; done
# vLLM's processes wait for one another by sched_yield. On Linux 6.18 that starves everyone else for seconds and more, on two CPUs that
# the hosts share with this machine; with the policy "idle" it does not, and is faster.
mkdir -p usr/lib/systemd/system/vllm@.service.d
printf '[Service]\nCPUSchedulingPolicy=idle\n' >usr/lib/systemd/system/vllm@.service.d/lab.conf
# No list was fetched yet. Ansible's cache_valid_time goes by this folder's age, so it must be old.
touch -d @0 var/lib/apt/lists
"""


def ensure(lab: Lab, suite: str, operator: Operator) -> Path:
    """The folder of a suite's root, built if it isn't there; whoever wants the same one meanwhile waits for it."""
    sources = operator.sources(suite)
    recipe = [suite, sources, PACKAGES, MASKED, FINISH, operator.certificates, operator.apt_conf]
    name = f"{suite}-{hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:12]}"
    image = lab.images / name
    if image.exists():
        return image
    with locked(lab.locks / f"{name}.lock", f"the {suite} root is being built") as lock:
        if not image.exists():
            _build(image, suite, sources, operator, lock)
    return image


def _build(image: Path, suite: str, sources: list[str], operator: Operator, lock: int) -> None:
    aside, log = image.with_name(f"{image.name}.part"), image.with_name(f"{image.name}.log")
    inputs = image.with_name(f"{image.name}.inputs")
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"lab: {suite} root: {text}", file=sys.stderr, flush=True)

    def tick() -> None:
        seconds = round(time.monotonic() - started)
        if seconds % 15 == 0:
            say(f"still building, {seconds} s")

    for leftover in (aside, inputs):
        shutil.rmtree(leftover, ignore_errors=True)
    log.write_text("")
    inputs.mkdir()
    say("building it, once; this takes one to two minutes")
    try:
        hooks = []
        for number, certificate in enumerate(operator.certificates):
            (inputs / f"operator-{number}.crt").write_text(certificate)
        if operator.certificates:
            hooks.append(f'--customize-hook=cp {inputs}/*.crt "$1/usr/local/share/ca-certificates/"')
        # mmdebstrap keeps these in the root, so they hold for apt in the hosts, too
        options = [f"--aptopt={line.rstrip(';')}" for line in ['Acquire::Languages "none";', *operator.apt_conf.splitlines()]]
        code = run_long(
            [
                "env",
                "-i",
                f"PATH={os.environ['PATH']}",
                "HOME=/root",
                "LC_ALL=C.UTF-8",
                "DEBIAN_FRONTEND=noninteractive",
                "mmdebstrap",
                "--mode=root",
                "--variant=apt",
                f"--include={PACKAGES}",
                "--dpkgopt=force-unsafe-io",
                *options,
                *hooks,
                suite,
                aside,
                *sources,
            ],
            log,
            tick,
            lock,
        )
        if code:
            lines = log.read_text(errors="replace").splitlines()
            why = next((line.removeprefix("E: ") for line in lines if line.startswith("E: ")), f"exit code {code}")
            raise LabError(
                f"mmdebstrap could not build the {suite} root: {why} (all it said is in {log}); LAB_DEBIAN_MIRROR names another mirror"
            )
        run(["sh", "-c", FINISH, "finish", aside, *MASKED])
        aside.rename(image)
        log.unlink()
        say(f"built in {time.monotonic() - started:.0f} s")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(inputs, ignore_errors=True)
