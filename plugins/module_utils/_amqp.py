"""A small client of AMQP 0-9-1 that declares queues and exchanges, for hosts that have no client library.

Source: https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_FRAME_END = 0xCE
_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
# Methods by class and number.
_START, _START_OK, _TUNE, _TUNE_OK, _OPEN, _OPEN_OK = (10, 10), (10, 11), (10, 30), (10, 31), (10, 40), (10, 41)
_CLOSE, _CLOSE_OK = (10, 50), (10, 51)
_CHANNEL_OPEN, _CHANNEL_OPEN_OK, _CHANNEL_CLOSE, _CHANNEL_CLOSE_OK = (20, 10), (20, 11), (20, 40), (20, 41)
_GET_EMPTY, _GET_OK = (60, 72), (60, 71)
# Values of a table by their type, as struct reads them.
_NUMBERS = {
    "t": "?",
    "b": "b",
    "B": "B",
    "s": "h",
    "u": "H",
    "I": "i",
    "i": "I",
    "l": "q",
    "f": "f",
    "d": "d",
    "T": "Q",
}
ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED = 403, 404, 406


class AmqpError(Exception):
    """The broker refuses a method.

    Attributes:
        code: AMQP's reply code.
        text: the broker's reason.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text


class Connection:
    """A connection to a broker, with one open channel. Errors of the network are OSError.

    Attributes:
        product, version: the broker's.
    """

    def __init__(self, stream: socket.socket, user: str, password: str, vhost: str) -> None:
        """Log in.

        Raises:
            AmqpError: the broker refuses the user or the vhost.
        """
        self._stream = stream
        self._file = stream.makefile("rb")
        stream.sendall(b"AMQP\x00\x00\x09\x01")
        start = self._expect(0, _START)
        properties, _ = _read_table(start, 2)
        self.product, self.version = str(properties.get("product", "")), str(properties.get("version", ""))
        # Otherwise the broker closes the connection without a reason.
        client = {"product": "Celery Fleet", "capabilities": {"authentication_failure_close": True}}
        response = f"\0{user}\0{password}".encode()
        self._send(0, _START_OK, _table(client) + _short("PLAIN") + _long(response) + _short("en_US"))
        tune = self._expect(0, _TUNE)
        channels, frame, _ = struct.unpack(">HIH", tune[:8])
        self._send(0, _TUNE_OK, struct.pack(">HIH", channels, frame, 0))
        self._send(0, _OPEN, _short(vhost) + b"\0\0")
        self._expect(0, _OPEN_OK)
        self._channel = 0
        self._open_channel()

    def close(self) -> None:
        self._send(0, _CLOSE, struct.pack(">H", 200) + _short("") + struct.pack(">HH", 0, 0))
        self._expect(0, _CLOSE_OK)

    def declare_exchange(self, name: str, kind: str, *, passive: bool = False, temporary: bool = False) -> None:
        """Declare a durable exchange, or only check that it exists.

        Args:
            temporary: the broker removes it with its last binding.
        """
        flags = passive | (not temporary) << 1 | temporary << 2
        self._call((40, 10), b"\0\0" + _short(name) + _short(kind) + bytes([flags]) + _table({}))

    def delete_exchange(self, name: str) -> None:
        self._call((40, 20), b"\0\0" + _short(name) + b"\0")

    def bind_exchange(self, destination: str, source: str, key: str) -> None:
        self._call((40, 30), b"\0\0" + _short(destination) + _short(source) + _short(key) + b"\0" + _table({}))

    def declare_queue(
        self, name: str, arguments: Mapping[str, Any], *, durable: bool = True, passive: bool = False
    ) -> None:
        """Declare a queue, or only check that it exists. One that is not durable is this connection's own."""
        flags = passive | durable << 1 | (not durable and not passive) << 2
        self._call((50, 10), b"\0\0" + _short(name) + bytes([flags]) + _table(arguments))

    def bind_queue(self, queue: str, exchange: str, key: str) -> None:
        self._call((50, 20), b"\0\0" + _short(queue) + _short(exchange) + _short(key) + b"\0" + _table({}))

    def delete_queue(self, name: str) -> None:
        self._call((50, 40), b"\0\0" + _short(name) + b"\0")

    def publish(self, exchange: str, key: str, body: bytes) -> None:
        """Publish a message. A refusal is the error of the next method."""
        self._send(self._channel, (60, 40), b"\0\0" + _short(exchange) + _short(key) + b"\0")
        self._write(_HEADER, self._channel, struct.pack(">HHQH", 60, 0, len(body), 0))
        self._write(_BODY, self._channel, body)

    def get(self, queue: str) -> bool:
        """Take a message out of a queue, and return whether there was one."""
        self._send(self._channel, (60, 70), b"\0\0" + _short(queue) + b"\1")
        method, _ = self._method(self._channel)
        if method == _GET_OK:
            kind, _, header = self._read()
            left = struct.unpack(">Q", header[4:12])[0] if kind == _HEADER else 0
            while left > 0:
                left -= len(self._read()[2])
        return method == _GET_OK

    def _open_channel(self) -> None:
        # A number is not used again: messages of a closed channel may be on their way.
        self._channel += 1
        self._send(self._channel, _CHANNEL_OPEN, b"\0")
        self._expect(self._channel, _CHANNEL_OPEN_OK)

    def _call(self, method: tuple[int, int], arguments: bytes) -> None:
        """Call a method of the channel, and wait for its answer, whose number is the next one, or the one after."""
        self._send(self._channel, method, arguments)
        self._method(self._channel)

    def _expect(self, channel: int, expected: tuple[int, int]) -> bytes:
        method, arguments = self._method(channel)
        if method != expected:
            raise ConnectionError(f"The broker answers with method {method}, but {expected} was expected")
        return arguments

    def _method(self, channel: int) -> tuple[tuple[int, int], bytes]:
        """Return the next method of a channel. If it closes the channel, another one is opened for what follows."""
        while True:
            kind, number, payload = self._read()
            if kind != _METHOD:
                continue
            method, arguments = struct.unpack(">HH", payload[:4]), payload[4:]
            if method == _CLOSE:
                self._send(0, _CLOSE_OK, b"")
                raise _refusal(arguments)
            if method == _CHANNEL_CLOSE:
                self._send(number, _CHANNEL_CLOSE_OK, b"")
                self._open_channel()
                raise _refusal(arguments)
            if number == channel:
                return method, arguments

    def _send(self, channel: int, method: tuple[int, int], arguments: bytes) -> None:
        self._write(_METHOD, channel, struct.pack(">HH", *method) + arguments)

    def _write(self, kind: int, channel: int, payload: bytes) -> None:
        self._stream.sendall(struct.pack(">BHI", kind, channel, len(payload)) + payload + bytes([_FRAME_END]))

    def _read(self) -> tuple[int, int, bytes]:
        """Return the next frame that is no heartbeat: its kind, channel and payload."""
        while True:
            head = self._exactly(7)
            if head.startswith(b"AMQP"):
                raise ConnectionError("The server does not speak AMQP 0-9-1")
            kind, channel, size = struct.unpack(">BHI", head)
            payload = self._exactly(size + 1)[:-1]
            if kind != _HEARTBEAT:
                return kind, channel, payload

    def _exactly(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise ConnectionResetError("The broker closed the connection")
        return data


def _refusal(arguments: bytes) -> AmqpError:
    (code,) = struct.unpack(">H", arguments[:2])
    return AmqpError(code, arguments[3 : 3 + arguments[2]].decode(errors="replace"))


def _short(text: str) -> bytes:
    data = text.encode()
    return bytes([len(data)]) + data


def _long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def _table(values: Mapping[str, Any]) -> bytes:
    return _long(b"".join(_short(name) + _value(value) for name, value in values.items()))


def _value(value: object) -> bytes:
    if isinstance(value, bool):
        return b"t" + bytes([value])
    if isinstance(value, int):
        return b"l" + struct.pack(">q", value)
    if isinstance(value, Mapping):
        return b"F" + _table(value)
    return b"S" + _long(str(value).encode())


def _read_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """Return a table, and where it ends."""
    (size,) = struct.unpack(">I", data[at : at + 4])
    return dict(_entries(data[at + 4 : at + 4 + size])), at + 4 + size


def _entries(data: bytes) -> Iterator[tuple[str, Any]]:
    at = 0
    while at < len(data):
        end = at + 1 + data[at]
        name, kind, at = data[at + 1 : end].decode(), chr(data[end]), end + 1
        value: Any = None
        if kind == "F":
            value, at = _read_table(data, at)
        elif kind in "SAx":
            (size,) = struct.unpack(">I", data[at : at + 4])
            value, at = data[at + 4 : at + 4 + size].decode(errors="replace"), at + 4 + size
        elif kind in _NUMBERS:
            size = struct.calcsize(f">{_NUMBERS[kind]}")
            (value,), at = struct.unpack(f">{_NUMBERS[kind]}", data[at : at + size]), at + size
        elif kind != "V":
            raise ConnectionError(f"The broker sends a value of the unknown type {kind!r}")
        yield name, value
