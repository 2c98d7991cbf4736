"""Frames of a WebSocket (RFC 6455, section 5.2): where they end, and the one that closes it."""

import os
from typing import Final

GOING_AWAY: Final = 1001  # RFC 6455, section 7.4.1
POLICY_VIOLATION: Final = 1008
MAX_FRAMES: Final = 1_024  # in one read; a flood of tiny frames is not followed

_CLOSE: Final = 0x88  # the last frame of its message, opcode 8
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_BYTES_OF_LENGTH: Final = {126: 2, 127: 8}


class FrameBoundary:
    """Follows the frames of one direction, without a look at their payloads.

    `between_frames`: whether a frame may be added now. It stays false after a Close frame, and
    after a flood of tiny frames.
    """

    def __init__(self) -> None:
        self.between_frames = True
        self._ended = False  # by a Close frame, or no longer followed
        self._left = 0  # bytes of the current payload
        self._head = b""  # an incomplete header of a frame

    def feed(self, data: bytes) -> None:
        """Follow the bytes of one read."""
        if self._ended:
            return
        at = 0
        if self._left:
            at, self._left = min(self._left, len(data)), max(0, self._left - len(data))
        if self._head:
            data, self._head = self._head + data, b""
        for _ in range(MAX_FRAMES):
            end = _frame_end(data, at)
            if end is None:
                break
            if data[at] & _OPCODE == _CLOSE & _OPCODE:
                self._ended = True
            at = end
        else:
            self._ended = True
        if at > len(data):
            self._left = at - len(data)
        elif not self._ended:
            self._head = data[at:]
        self.between_frames = not (self._ended or self._left or self._head)


def _frame_end(data: bytes, at: int) -> int | None:
    """The end of the frame that begins at `at`; None if its header is incomplete."""
    size = len(data) - at
    if size < 2:
        return None
    second = data[at + 1]
    length = second & _LENGTH
    extended = _BYTES_OF_LENGTH.get(length, 0)
    head = 2 + extended + (4 if second & _MASKED else 0)
    if size < head:
        return None
    if extended:
        length = int.from_bytes(data[at + 2 : at + 2 + extended], "big")
    return at + head + length


def close_frame(code: int, reason: bytes, *, masked: bool) -> bytes:
    """A Close frame. Only a client masks its frames (RFC 6455, section 5.1)."""
    payload = code.to_bytes(2, "big") + reason
    if not masked:
        return bytes((_CLOSE, len(payload))) + payload
    mask = os.urandom(4)
    coded = bytes(byte ^ mask[number % 4] for number, byte in enumerate(payload))
    return bytes((_CLOSE, _MASKED | len(payload))) + mask + coded
