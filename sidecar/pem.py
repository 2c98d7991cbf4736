"""Why TLS files cannot be used, in words: OpenSSL's own are such as "PEM lib"."""

import re
import ssl
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")


def pem_problem(certificates: tuple[Path, ...], keys: tuple[Path, ...] = ()) -> str:
    """What is wrong with one of these files alone; "" if each could be used."""
    for file in certificates:
        problem = _certificate_problem(file)
        if problem:
            return f"{file} {problem}"
    for file in keys:
        problem = _key_problem(file)
        if problem:
            return f"{file} {problem}"
    return ""


def _text(file: Path) -> tuple[str, str]:
    """The text of a file, and why it has no text."""
    try:
        return file.read_text(encoding="ascii", errors="replace"), ""
    except OSError as error:
        return "", f"cannot be read: {(error.strerror or str(error)).lower()}"


def _certificate_problem(file: Path) -> str:
    text, problem = _text(file)
    kinds = _BLOCK.findall(text)
    if problem:
        return problem
    if "CERTIFICATE" not in kinds:
        what = f"has a {kinds[0].lower()}" if kinds else "is not in PEM format"
        return f"{what}, not a certificate (-----BEGIN CERTIFICATE-----)"
    try:
        ssl.create_default_context(cadata=text)
    except (ssl.SSLError, ValueError):
        return "has a damaged certificate"
    return ""


def _key_problem(file: Path) -> str:
    text, problem = _text(file)
    kinds = _BLOCK.findall(text)
    if problem:
        return problem
    if not any(kind.endswith("PRIVATE KEY") for kind in kinds):
        what = f"has a {kinds[0].lower()}" if kinds else "is not in PEM format"
        return f"{what}, not a private key (-----BEGIN PRIVATE KEY-----)"
    if "ENCRYPTED PRIVATE KEY" in kinds or "Proc-Type: 4,ENCRYPTED" in text:
        return "is encrypted; store the private key without a password"
    return ""
