"""Signatures of messages: what a sender states about a message, and how a receiver verifies it.

Celery's serializer auth signs the body only: whoever can publish may send a signed body under another task's name, or
again. Here, a sender signs a statement with the body: all headers, with the task's name, ID and eta, the routing, the
time, and a nonce. A receiver takes the headers from the statement, so that what is not signed has no effect.

Needs the package cryptography, which Celery's extra auth requires.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import math
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kombu.utils import json as kombu_json

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
except ImportError as error:
    raise ImportError(
        "celery_signed_messages needs the package cryptography. Add celery[auth] to the application's requirements"
    ) from error

# As kombu writes headers, with times and UUIDs.
_dumps: Any = kombu_json.dumps
_loads: Any = kombu_json.loads

STATEMENT, SIGNATURE = "fleet-statement", "fleet-signature"
#: Differences between clocks that are tolerated, in seconds.
SKEW_SECONDS = 300
_PURPOSE = b"celery-fleet message 1\n"
#: AMQP properties that are signed.
PROPERTIES = ("reply_to", "correlation_id")


class RefusedError(Exception):
    """A message that must not be used. Its text is the reason, one of refusals.REASONS."""


@dataclass(frozen=True)
class Statement:
    """What the sender of a message has signed.

    Attributes:
        key: ID of the sender's key.
        at: time of the signature, in seconds since the epoch.
        nonce: text that no other message has.
        properties: AMQP properties of PROPERTIES.
    """

    key: str
    at: float
    nonce: str
    content_type: str
    exchange: str
    routing_key: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the types: a sender that may be trusted to send tasks is not trusted to be well.

        Raises:
            ValueError: one of them is wrong.
        """
        texts = (self.key, self.nonce, self.content_type, self.exchange, self.routing_key)
        right = all(isinstance(each, str) for each in texts)
        right &= isinstance(self.headers, dict) and isinstance(self.properties, dict)
        if not (right and isinstance(self.at, (int, float)) and math.isfinite(self.at)):
            raise ValueError("not a statement")

    @property
    def id(self) -> str:
        """Return what no other message has, whatever other senders write into theirs."""
        return f"{self.key}.{hashlib.sha256(self.nonce.encode()).hexdigest()[:32]}"

    @property
    def due(self) -> float:
        """Return when the message may take effect at the earliest: its time, or its eta if that is later."""
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return max(self.at, datetime.fromisoformat(str(self.headers.get("eta"))).timestamp())
        return self.at


def key_id(public: bytes) -> str:
    """Return the ID of a public key of 32 bytes."""
    return hashlib.sha256(public).hexdigest()[:16]


def signed_bytes(statement: str, body: object) -> bytes:
    """Return what is signed. A statement has no newline, so its end is unambiguous.

    Raises:
        TypeError: the body is neither text nor bytes.
    """
    content = body.encode() if isinstance(body, str) else body
    if not isinstance(content, (bytes, bytearray, memoryview)):
        raise TypeError(f"The body is of the type {type(body).__name__}")
    return _PURPOSE + statement.encode() + b"\n" + bytes(content)


class Signer:
    """The private key of a sender."""

    def __init__(self, pem: bytes) -> None:
        """Read a key.

        Raises:
            ValueError: it is not an Ed25519 key in the PEM format.
        """
        key = load_pem_private_key(pem, None)
        if not isinstance(key, Ed25519PrivateKey):
            raise ValueError("not an Ed25519 key")
        self._key = key
        self._id = key_id(key.public_key().public_bytes_raw())

    def sign(
        self,
        body: object,
        headers: Mapping[str, Any],
        properties: Mapping[str, Any],
        *,
        content_type: str,
        exchange: str,
        routing_key: str,
    ) -> dict[str, Any]:
        """Return the headers of a signed message.

        Args:
            body: the message's content as it was before its compression.
            properties: its AMQP properties.
        """
        plain = unsigned(headers)
        statement: str = _dumps(
            {
                "key": self._id,
                "at": time.time(),
                "nonce": secrets.token_urlsafe(12),
                "content_type": content_type,
                "exchange": exchange,
                "routing_key": routing_key,
                "headers": plain,
                "properties": {name: properties[name] for name in PROPERTIES if properties.get(name)},
            }
        )
        signature = base64.b64encode(self._key.sign(signed_bytes(statement, body))).decode()
        return {**plain, STATEMENT: statement, SIGNATURE: signature}


def unsigned(headers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the headers of a message without its statement and signature."""
    return {name: value for name, value in headers.items() if name not in {STATEMENT, SIGNATURE}}


@dataclass(frozen=True)
class TrustedKey:
    """A public key that receivers trust.

    Attributes:
        sender: name of its owner.
        operator: whether its owner may control workers.
        until: time after which it signs no more, in seconds since the epoch; None if it is in use.
    """

    sender: str
    operator: bool
    public: Ed25519PublicKey
    until: float | None = None


def read_trusted(text: str) -> dict[str, TrustedKey]:
    """Return trusted keys by their IDs.

    Args:
        text: JSON with sender, operator, public (base64 of 32 bytes) and until of each key.
    """
    found = {}
    for each in json.loads(text):
        public = base64.b64decode(each["public"])
        key = Ed25519PublicKey.from_public_bytes(public)
        found[key_id(public)] = TrustedKey(each["sender"], each["operator"], key, each["until"])
    return found


def verify(
    trusted: Mapping[str, TrustedKey], headers: Mapping[str, Any], body: object, *, content_type: str, now: float
) -> tuple[TrustedKey, Statement]:
    """Return the key of a message's sender, and what the sender states.

    Args:
        now: seconds since the epoch.

    Raises:
        RefusedError: the message is not signed, or not as it is here.
    """
    text, signature = headers.get(STATEMENT), headers.get(SIGNATURE)
    if not isinstance(text, str) or not isinstance(signature, str):
        raise RefusedError("unsigned")
    try:
        key = trusted.get(json.loads(text)["key"])
        if key is None:
            raise RefusedError("unknown_key")
        key.public.verify(base64.b64decode(signature), signed_bytes(text, body))
        statement = Statement(**_loads(text))
    # The text may be anything, also from a sender whose key was stolen.
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, InvalidSignature) as error:
        raise RefusedError("wrong_signature") from error
    if statement.content_type != content_type or (key.until is not None and statement.at > key.until + SKEW_SECONDS):
        raise RefusedError("wrong_signature")
    if statement.at > now + SKEW_SECONDS:
        raise RefusedError("clock")
    return key, statement


class Trust:
    """The trusted keys of a file, which is read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self._file = ChangingFile(path)
        self._keys: dict[str, TrustedKey] = {}

    @property
    def keys(self) -> Mapping[str, TrustedKey]:
        """Return the keys by their IDs. While the file can't be read, they stay as they were."""
        if content := self._file.read_changed():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                self._keys = read_trusted(content.decode())
        return self._keys


class ChangingFile:
    """A file that others replace."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None

    def read_changed(self) -> bytes:
        """Return its content if it has changed since the last call; empty if it has not, or can't be read."""
        with contextlib.suppress(OSError):
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns)
            if seen != self._seen:
                content = self._path.read_bytes()
                self._seen = seen
                return content
        return b""


class SenderKey:
    """The key of this process's sender, which is read again when its file has changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = ChangingFile(path)
        self._signer: Signer | None = None

    @property
    def signer(self) -> Signer:
        """Return the key.

        Raises:
            OSError: there is none.
        """
        if content := self._file.read_changed():
            self._signer = Signer(content)
        if self._signer is None:
            raise FileNotFoundError(os.strerror(2), str(self._path))
        return self._signer
