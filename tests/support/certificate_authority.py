"""A certificate authority for tests, made with the openssl command."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
_RSA = ("-newkey", "rsa:2048", "-nodes")


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, in files."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates for 127.0.0.1 and localhost; `cert` is what clients trust."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.cert = directory / f"{name}.pem"
        self._key = directory / f"{name}.key"
        _openssl(
            "req", "-x509", *_EC, "-keyout", self._key, "-out", self.cert, "-days", "3",
            "-subj", f"/CN={name}", "-addext", "keyUsage=critical,keyCertSign",
        )  # fmt: skip

    def issue(self, name: str, *, days: int = 2, rsa: bool = False) -> Pair:
        """A certificate with `name` as its subject. With `days=-1`, it has expired."""
        key, cert = self._directory / f"{name}.key", self._directory / f"{name}.pem"
        request, extensions = self._directory / f"{name}.csr", self._directory / f"{name}.ext"
        extensions.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
        kind = _RSA if rsa else _EC
        _openssl("req", *kind, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        _openssl(
            "x509", "-req", "-in", request, "-CA", self.cert, "-CAkey", self._key,
            "-CAcreateserial", "-days", days, "-extfile", extensions, "-out", cert,
        )  # fmt: skip
        return Pair(cert, key)


def end_date(cert: Path) -> str:
    """The expiry according to openssl, for example "Nov 26 02:20:00 2026 GMT"."""
    return _openssl("x509", "-in", cert, "-noout", "-enddate").partition("=")[2].strip()


def encrypt_key(key: Path, to: Path) -> None:
    """Write the key with a password."""
    _openssl("pkey", "-in", key, "-aes256", "-passout", "pass:hunter2", "-out", to)


def _openssl(*arguments: object) -> str:
    done = subprocess.run(
        ["openssl", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
