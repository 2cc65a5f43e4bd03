"""Messages and keys of tests of signatures."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

BODY = b'[[1, 2], {}, {"chain": null}]'
HEADERS = {"task": "shop.pay", "id": "1", "eta": None, "timelimit": [None, 30]}
JSON = "application/json"


def pem(key: Any) -> bytes:
    content: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return content


def trusted_as(name: str, key: Ed25519PrivateKey, **more: Any) -> dict[str, Any]:
    public = base64.b64encode(key.public_key().public_bytes_raw()).decode()
    return {"sender": name, "operator": False, "public": public, "until": None, **more}
