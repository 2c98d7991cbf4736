"""Assembles the root file system of the image: `python image/root.py DIRECTORY --venv VENV`.

It has this Python, the virtual environment, the shared libraries that they load, CA certificates
and the user: no shell, no package manager, no compiler. It uses only the standard library and the
tools of Debian: ldd, ldconfig, strip, dpkg.
"""

import argparse
import os
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

USER: Final = 65532
SPOOL: Final = "var/spool/sidecar"
# Parts of the standard library that no server needs.
LEFT_OUT: Final = (
    "__pycache__", "config-*", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages",
    "test", "tests", "tkinter", "turtle.py", "turtledemo", "_test*.so", "_tkinter*.so",
    "xxlimited*.so", "_ctypes_test*.so",
)  # fmt: skip
# Loaded at run time, without a reference in a file.
LOADED_LATER: Final = ("libgcc_s.so.1",)
FILES: Final = {
    "etc/passwd": f"sidecar:x:{USER}:{USER}::/{SPOOL}:/nonexistent\n",
    "etc/group": f"sidecar:x:{USER}:\n",
    "etc/nsswitch.conf": "hosts: files dns\n",
}


def add_python(root: Path) -> None:
    """Copy this Python without LEFT_OUT. Its paths stay the same."""
    base = Path(sys.base_prefix)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    library = base / "lib" / version
    shutil.copytree(
        library, inside(root, library), symlinks=True, ignore=shutil.ignore_patterns(*LEFT_OUT)
    )
    program = base / "bin" / version
    copy(root, program)
    for name in ("python3", "python"):
        inside(root, base / "bin" / name).symlink_to(version)
    shared = sysconfig.get_config_var("INSTSONAME")
    if sysconfig.get_config_var("Py_ENABLE_SHARED"):
        copy(root, base / "lib" / shared)


def add_environment(root: Path, venv: Path) -> None:
    """Copy the virtual environment, without what its packages bring for their own tests."""
    ignored = shutil.ignore_patterns("__pycache__", "[Aa]ctivate*", "include")
    shutil.copytree(venv, inside(root, venv), symlinks=True, ignore=ignored)


def add_libraries(root: Path) -> list[Path]:
    """Copy the shared libraries that the binaries below `root` load. Returns their paths here."""
    needed = {library for binary in binaries(root) for library in loads(binary)}
    found = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    for name in LOADED_LATER:
        needed.update(re.findall(rf"{re.escape(name)} .*=> (\S+)", found)[:1])
    for path in sorted(needed):
        if not inside(root, Path(path)).exists():
            copy(root, Path(path))
    configuration = [Path("/etc/ld.so.conf"), *Path("/etc/ld.so.conf.d").glob("*.conf")]
    for path in configuration:
        copy(root, path)
    subprocess.run(["ldconfig", "-r", root], check=True)
    return [Path(path) for path in sorted(needed)]


def binaries(root: Path) -> Iterator[Path]:
    """The ELF files below a directory."""
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def loads(binary: Path) -> list[str]:
    """The shared libraries of the system that a binary loads, and its loader."""
    listed = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout
    paths = re.findall(r"^\s*(?:\S+ => )?(/\S+) \(0x", listed, re.MULTILINE)
    return [path for path in paths if not Path(path).is_relative_to(binary.parents[-2])]


def strip(paths: Iterable[Path]) -> None:
    """Remove debugging symbols. Wheels have them, and they are half of the image."""
    for path in paths:
        subprocess.run(["strip", "--strip-unneeded", path], check=True)


def add_notices(root: Path, libraries: Iterable[Path]) -> None:
    """Name the Debian packages of the libraries, for scanners, with their licences."""
    packages = set()
    for library in libraries:
        for path in (library, library.resolve()):
            asked = subprocess.run(
                ["dpkg", "-S", path], capture_output=True, text=True, check=False
            )
            packages.update(line.partition(":")[0] for line in asked.stdout.splitlines())
    for name in sorted({*packages, "ca-certificates"}):
        status = subprocess.run(["dpkg", "-s", name], capture_output=True, text=True, check=False)
        write(root, f"var/lib/dpkg/status.d/{name}", status.stdout)
        copyright_file = Path("/usr/share/doc") / name / "copyright"
        if copyright_file.exists():
            copy(root, copyright_file)


def add_files(root: Path) -> None:
    """Write the user, the CA certificates, the spool directory and /tmp."""
    for name, text in FILES.items():
        write(root, name, text)
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    copy(root, bundle)
    default = inside(root, Path(ssl.get_default_verify_paths().openssl_cafile))
    if default != inside(root, bundle):
        default.parent.mkdir(parents=True, exist_ok=True)
        default.symlink_to(bundle)
    spool = root / SPOOL
    spool.mkdir(parents=True)
    os.chown(spool, USER, USER)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)
    for name in ("proc", "sys", "dev", "run"):
        (root / name).mkdir()


def compile_python(root: Path) -> None:
    """Write bytecode that no run checks against its source: the file system is read-only."""
    options = ["-q", "-s", root, "-p", "/", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([sys.executable, "-m", "compileall", *options, root], check=True)


def inside(root: Path, path: Path) -> Path:
    """The place of an absolute path below `root`."""
    return root / path.relative_to("/")


def copy(root: Path, path: Path) -> None:
    """Copy a file to the same path below `root`; what a link leads to, under the link's name."""
    target = inside(root, path)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path.resolve(), target)


def write(root: Path, name: str, text: str) -> None:
    """Write a file below `root`."""
    target = root / name
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def main() -> None:
    """Assemble everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="an empty or missing directory")
    parser.add_argument("--venv", type=Path, required=True, help="virtual environment to copy")
    options = parser.parse_args()
    root = options.root.absolute()
    root.mkdir(parents=True, exist_ok=True)
    add_python(root)
    add_environment(root, options.venv)
    libraries = add_libraries(root)
    strip(binaries(root))
    add_notices(root, libraries)
    add_files(root)
    compile_python(root)


if __name__ == "__main__":
    main()
