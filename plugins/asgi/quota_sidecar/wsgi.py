"""WSGI middleware: Flask, Django and others."""

import io
import logging
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import quote, urlsplit

from quota_sidecar.contract import (
    Decision,
    Fields,
    NoDecision,
    Refusal,
    is_identity,
    malformed,
    question,
    unavailable,
)
from quota_sidecar.options import Options
from quota_sidecar.outcome import Recorded
from quota_sidecar.quota import CURRENT, Quota
from quota_sidecar.sync_client import ProcessClient, SyncClient

log = logging.getLogger("quota_sidecar")

Environ = dict[str, Any]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
App = Callable[[Environ, StartResponse], Iterable[bytes]]

_UNPREFIXED: Final = {"CONTENT_TYPE": "content-type", "CONTENT_LENGTH": "content-length"}


class QuotaWsgiMiddleware:
    """Asks before each request, and reports how it ended.

    The application finds the `Quota` in `environ["quota"]`, and by `current()`.
    """

    def __init__(self, app: App, options: Options | None = None) -> None:
        self._app = app
        self._options = options or Options()
        self._client = ProcessClient(self._options)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        client = self._client.get()
        try:
            answer: Decision | Refusal | None = self._decide(client, environ)
        except NoDecision as error:
            log.error("no decision: %s", error)
            path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
            answer = None if self._options.is_open(path) else unavailable()
        if isinstance(answer, Refusal):
            return _refuse(environ, start_response, answer)
        for name in [one for one in environ if is_identity(one.removeprefix("HTTP_"))]:
            del environ[name]
        quota = environ["quota"] = Quota(answer)
        if answer is None:
            return _Unrecorded(self._app, environ, start_response, quota)
        if "body" in answer.report:  # it is read, so it must not be encoded
            environ.pop("HTTP_ACCEPT_ENCODING", None)
        for name, value in answer.request_headers:
            environ["HTTP_" + name.upper().replace("-", "_")] = _native(value)
        recorded = Recorded(answer, quota, self._options.keep_body)
        length = environ.get("CONTENT_LENGTH") or "0"
        recorded.bytes_in = int(length) if length.isdecimal() else 0
        return _Response(self._app, environ, start_response, answer, quota, recorded, client)

    def close(self) -> None:
        """Send the reports that wait. The end of the process does it, unless it is killed."""
        self._client.get().close()

    def _decide(self, client: SyncClient, environ: Environ) -> Decision | Refusal:
        try:
            fields = [(name, _text(value)) for name, value in _fields_of(environ)]
            path = _path_of(environ)
            body, complete = self._read_ahead(environ)
            document = question(
                environ["REQUEST_METHOD"], path, fields, address=environ.get("REMOTE_ADDR") or "",
                body=body, body_complete=complete, wait_ms=self._options.wait_ms,
            )  # fmt: skip
        except ValueError:
            return malformed()
        return client.decide(document)

    def _read_ahead(self, environ: Environ) -> tuple[str | None, bool]:
        """The body as text if it is small; and whether nothing of the body is missing."""
        length = environ.get("CONTENT_LENGTH") or ""
        if not length and "HTTP_TRANSFER_ENCODING" not in environ:
            return None, True
        if not length.isdecimal() or int(length) > self._options.read_body:
            return None, False
        data = environ["wsgi.input"].read(int(length))
        environ["wsgi.input"] = io.BytesIO(data)
        try:
            return data.decode(), len(data) == int(length)
        except UnicodeDecodeError:
            return None, False


class _Unrecorded:
    """A response without a report; `current()` is its quota in the application."""

    def __init__(
        self, app: App, environ: Environ, start_response: StartResponse, quota: Quota
    ) -> None:
        self._quota = quota
        self._start_response = start_response
        token = CURRENT.set(quota)
        try:
            self._result = app(environ, self._start)
        finally:
            CURRENT.reset(token)
        self._parts = iter(self._result)

    def _start(self, status: str, headers: Fields, *error: Any) -> Write:
        return self._start_response(status, headers, *error)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        token = CURRENT.set(self._quota)
        try:
            return next(self._parts)
        finally:
            CURRENT.reset(token)

    def close(self) -> None:
        """End the response, as PEP 3333 asks of each server."""
        if hasattr(self._result, "close"):
            self._result.close()


class _Response(_Unrecorded):
    """A response that is reported when it ends."""

    def __init__(
        self,
        app: App,
        environ: Environ,
        start_response: StartResponse,
        decision: Decision,
        quota: Quota,
        recorded: Recorded,
        client: SyncClient,
    ) -> None:
        self._fields = [(name, _native(value)) for name, value in decision.response_headers]
        self._recorded = recorded
        self._client = client
        self._reported = False
        try:
            super().__init__(app, environ, start_response, quota)
        except BaseException as error:
            self._report(error)
            raise

    def _start(self, status: str, headers: Fields, *error: Any) -> Write:
        names = {name.lower() for name, _ in self._fields}
        headers = [one for one in headers if one[0].lower() not in names] + self._fields
        write = self._start_response(status, headers, *error)
        self._recorded.start(int(status[:3]), headers)

        def written(part: bytes) -> object:
            self._recorded.add(part)
            return write(part)

        return written

    def __next__(self) -> bytes:
        try:
            part = super().__next__()
        except StopIteration:
            self._recorded.ended = True
            raise
        except BaseException as error:
            self._report(error)
            raise
        self._recorded.add(part)
        return part

    def close(self) -> None:
        """End the response. Without all of its parts, the client has left."""
        try:
            super().close()
        finally:
            self._recorded.client_left = not self._recorded.ended
            self._report(None)

    def _report(self, error: BaseException | None) -> None:
        if not self._reported:
            self._reported = True
            self._client.settle(self._recorded.document(error))


def _refuse(environ: Environ, start_response: StartResponse, refusal: Refusal) -> Iterable[bytes]:
    phrase = HTTPStatus(refusal.status).phrase
    fields = [(name, _native(value)) for name, value in refusal.headers]
    fields.append(("Content-Length", str(len(refusal.body))))
    start_response(f"{refusal.status} {phrase}", fields)
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [refusal.body]


def _fields_of(environ: Environ) -> Iterator[tuple[str, str]]:
    for name, value in environ.items():
        if name in _UNPREFIXED and value:
            yield _UNPREFIXED[name], value
        elif name.startswith("HTTP_"):
            yield name[5:].lower().replace("_", "-"), value


def _path_of(environ: Environ) -> str:
    """The path as the client sent it, with its query, if the server has it."""
    raw = environ.get("REQUEST_URI") or environ.get("RAW_URI")
    if raw:
        parts = urlsplit(raw) if not raw.startswith("/") else None
        text = raw if parts is None else raw[len(f"{parts.scheme}://{parts.netloc}") :] or "/"
        return _text(text)
    path = _text(environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", ""))
    query = _text(environ.get("QUERY_STRING", ""))
    path = quote(path, safe="/:@!$&'()*+,;=~")
    return f"{path}?{query}" if query else path


def _text(native: str) -> str:
    """The text of a native string of PEP 3333. Raises UnicodeDecodeError."""
    return native.encode("latin-1").decode()


def _native(text: str) -> str:
    return text.encode().decode("latin-1")
