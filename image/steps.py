"""Runs the Dockerfile's own steps without a container engine: `make rootfs`.

The base image is replaced by this machine's root, with one Python first in PATH: an overlay keeps
the machine as it is. Then it starts the assembled root file system as a container engine would:
as the image's user, read-only, with all capabilities dropped. It needs root and overlayfs.

It cannot do what an engine does beyond that: it pulls no base image, writes no layers, and runs
under no seccomp profile.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SHELL: Final = ("/bin/sh", "-c")
MIB: Final = 1 << 20
PLANS: Final = "/etc/quota-sidecar/plans.yaml"


@dataclass
class Stage:
    """A FROM with its steps: each is an instruction and its text."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def last(self, instruction: str) -> str:
        """The text of the last step with this instruction."""
        return [text for name, text in self.steps if name == instruction][-1]

    @property
    def env(self) -> dict[str, str]:
        """The environment variables that the stage sets."""
        texts = [text for name, text in self.steps if name == "ENV"]
        return dict(word.split("=", 1) for text in texts for word in shlex.split(text))


def stages(dockerfile: str) -> list[Stage]:
    """The stages of a Dockerfile."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    found: list[Stage] = []
    for line in re.sub(r"\\\n", "", "\n".join(lines)).splitlines():
        instruction, _, text = line.strip().partition(" ")
        if instruction == "FROM":
            found.append(Stage(text))
        elif instruction and found:
            found[-1].steps.append((instruction, text.strip()))
    return found


class Overlay:
    """This machine's root, whose changes go to a directory."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "root"
        parts = [directory / name for name in ("upper", "work", "root")]
        for part in parts:
            part.mkdir(parents=True)
        upper, work, root = parts
        mount("-t", "overlay", "-o", f"lowerdir=/,upperdir={upper},workdir={work}", "overlay", root)
        mount("--rbind", "/dev", root / "dev")
        mount("-t", "proc", "proc", root / "proc")

    def run(self, command: str, cwd: str, env: Mapping[str, str]) -> None:
        """Run a RUN step. Raises CalledProcessError."""
        place = self.root / cwd.lstrip("/")
        place.mkdir(parents=True, exist_ok=True)
        script = f"cd {shlex.quote(cwd)} && {command}"
        subprocess.run(["chroot", self.root, *SHELL, script], env=env, check=True)

    def copy(self, text: str, cwd: str) -> None:
        """Copy files of the repository, as a COPY step does."""
        *sources, target = text.split()
        place = self.root / cwd.lstrip("/") / target
        for source in map(ROOT.joinpath, sources):
            if source.is_dir():
                shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, place)


def mount(*arguments: object) -> None:
    """Run mount. Raises CalledProcessError."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def build(stage: Stage, directory: Path, python: Path) -> Path:
    """Run the steps of a stage. Returns the root that they leave."""
    overlay, cwd = Overlay(directory), "/"
    env = {
        "PATH": f"{python.parent}:{os.environ['PATH']}", "HOME": os.environ.get("HOME", "/root"),
        **stage.env,
    }  # fmt: skip
    for instruction, text in stage.steps:
        if instruction != "ENV":
            print(f"{instruction} {text}", flush=True)
        if instruction == "WORKDIR":
            cwd = text
        elif instruction == "RUN":
            overlay.run(text, cwd, env)
        elif instruction == "COPY":
            overlay.copy(text, cwd)
    return overlay.root


def start(rootfs: Path, stage: Stage, *command: str, **more: str) -> "subprocess.Popen[str]":
    """Start a command in an assembled root as the image's user, on a read-only file system.

    The user has no capabilities and cannot gain any. /dev and /proc are there, as in a container.
    """
    user, group = stage.last("USER").split(":")
    env = {**stage.env, **more}
    confined = (
        "mount --bind {0} {0} && mount -o remount,ro,bind {0} && mount -t proc proc {0}/proc"
        " && mount --rbind /dev {0}/dev"
        " && mount -t tmpfs -o mode=0700,uid={1},gid={2} tmpfs {0}/var/spool/sidecar"
        " && exec setpriv --no-new-privs --inh-caps=-all"
        ' chroot --userspec={1}:{2} --groups={2} {0} "$@"'
    ).format(shlex.quote(str(rootfs)), user, group)
    return subprocess.Popen(
        ["unshare", "--mount", "--pid", "--fork", "--kill-child", *SHELL, confined, "sh", *command],
        env={**env, "PATH": f"{env['PATH']}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run(rootfs: Path, stage: Stage, *command: str, **more: str) -> str:
    """The output of a command in the root. Raises CalledProcessError."""
    with start(rootfs, stage, *command, **more) as process:
        output, _ = process.communicate(timeout=60)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return output


def serve(rootfs: Path, stage: Stage) -> None:
    """Start the image's own command and ask its health check. Raises CalledProcessError."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        control = f"127.0.0.1:{probe.getsockname()[1]}"
    more = {
        "SIDECAR_LISTEN": "127.0.0.1:0", "SIDECAR_CONTROL": control, "SIDECAR_PLANS": PLANS,
        "SIDECAR_UPSTREAM": "http://127.0.0.1:1", "SIDECAR_REDIS": "redis://127.0.0.1:1/0",
    }  # fmt: skip
    command = [word for name in ("ENTRYPOINT", "CMD") for word in json.loads(stage.last(name))]
    check = json.loads(stage.last("HEALTHCHECK").partition("CMD ")[2])
    with start(rootfs, stage, *command, **more) as process:
        try:
            lines = []
            for line in process.stdout or ():
                lines.append(line)
                if '"sidecar_serving"' in line:
                    break
            else:
                raise subprocess.CalledProcessError(process.wait(), command, "".join(lines))
            run(rootfs, stage, *check, **more)
        finally:
            process.kill()


def size(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(p.lstat().st_size for p in directory.rglob("*") if p.is_file() or p.is_symlink())


def main() -> int:
    """Run the steps in a mount namespace of their own, and start the result."""
    parser = argparse.ArgumentParser(prog="make rootfs", description=__doc__)
    parser.add_argument("--python", type=Path, default=Path(sys.executable).resolve())
    parser.add_argument("--directory", type=Path, default=ROOT / "build" / "image")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    directory = options.directory.absolute()
    if not options.inner:
        if os.geteuid():
            print(
                "make rootfs: needs root, for the overlay and chroot; run it with sudo",
                file=sys.stderr,
            )
            return 2
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
        again = [sys.executable, __file__, *sys.argv[1:], "--inner"]
        return subprocess.run(["unshare", "--mount", *again], check=False).returncode
    first, last = stages((ROOT / "Dockerfile").read_text())
    base = build(first, directory, options.python)
    shutil.copytree(base / "rootfs", directory / "rootfs", symlinks=True)
    spool = directory / "rootfs" / "var/spool/sidecar"
    os.chown(spool, *map(int, last.last("USER").split(":")))
    rootfs = directory / "rootfs"
    print(f"{size(rootfs) / MIB:.0f} MiB in {rootfs}")
    return try_out(rootfs, last)


def try_out(rootfs: Path, stage: Stage) -> int:
    """Start the assembled root. Exit code 1 with the output of a command that failed."""
    plans = rootfs / PLANS.lstrip("/")
    plans.parent.mkdir(exist_ok=True)
    shutil.copy2(ROOT / "examples" / "plans.yaml", plans)
    try:
        print(run(rootfs, stage, "sidecar", "version").strip())
        serve(rootfs, stage)
    except subprocess.CalledProcessError as error:
        print(f"{' '.join(error.cmd)}: exit code {error.returncode}: {error.output}")
        return 1
    print("it serves read-only as the image's user, and its health check passes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
