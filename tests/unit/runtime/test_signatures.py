"""What a receiver accepts of a signed message, and what it refuses."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.signing import (
    SIGNATURE,
    SKEW_SECONDS,
    STATEMENT,
    RefusedError,
    SenderKey,
    Signer,
    Statement,
    Trust,
    TrustedKey,
    read_trusted,
    signed_bytes,
    verify,
)
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from signed_messages import BODY, HEADERS, JSON, pem, trusted_as

KEY, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


def signed(
    body: object = BODY, headers: Mapping[str, Any] = HEADERS, key: Ed25519PrivateKey = KEY, **properties: str
) -> dict[str, Any]:
    signer = Signer(pem(key))
    return signer.sign(body, headers, properties, content_type=JSON, exchange="shop", routing_key="customers")


def opened(
    headers: Mapping[str, Any], body: object = BODY, *, content_type: str = JSON, after: float = 0, **trust: Any
) -> tuple[TrustedKey, Statement]:
    """Return what a receiver reads of a message, so many seconds after it was sent."""
    keys = read_trusted(json.dumps([trusted_as("worker1", KEY, **trust)]))
    now = (json.loads(headers[STATEMENT])["at"] if STATEMENT in headers else 0) + after
    return verify(keys, headers, body, content_type=content_type, now=now)


def test_a_receiver_reads_what_the_sender_has_signed() -> None:
    headers = signed(reply_to="queue", correlation_id="1", priority="3")
    key, statement = opened(headers)
    assert (key.sender, key.operator) == ("worker1", False)
    assert statement.headers == HEADERS
    assert (statement.exchange, statement.routing_key) == ("shop", "customers")
    assert statement.properties == {"reply_to": "queue", "correlation_id": "1"}


def test_a_message_that_a_broker_returns_as_text_has_the_same_signature() -> None:
    assert opened(signed(BODY.decode()), BODY)
    assert opened(signed(BODY), BODY.decode())


def test_two_messages_never_have_the_same_nonce() -> None:
    assert opened(signed())[1].id != opened(signed())[1].id


def test_a_message_that_is_signed_again_has_one_statement() -> None:
    headers = signed(headers=signed())
    assert opened(headers)[1].headers == HEADERS


@pytest.mark.parametrize("name", [STATEMENT, SIGNATURE])
def test_a_message_without_signature_is_refused(name: str) -> None:
    with pytest.raises(RefusedError, match="unsigned"):
        opened({key: value for key, value in signed().items() if key != name})


def test_headers_that_are_not_signed_have_no_effect() -> None:
    headers = {**signed(), "task": "shop.refund", "retries": 3}
    assert opened(headers)[1].headers == HEADERS


def changed(headers: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {**headers, STATEMENT: json.dumps({**json.loads(headers[STATEMENT]), **values})}


@pytest.mark.parametrize(
    "values",
    [
        {"headers": {**HEADERS, "task": "shop.refund"}},
        {"headers": {**HEADERS, "eta": "2030-01-01T00:00:00+00:00"}},
        {"properties": {"reply_to": "mine"}},
        {"routing_key": "reports"},
        {"nonce": "another"},
        {"at": 1.0},
    ],
)
def test_a_changed_statement_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(RefusedError, match="wrong_signature"):
        opened(changed(signed(), values))


@pytest.mark.parametrize("body", [b"[[1, 3], {}, {}]", b"", "[]", None, 10**15, [1], {}])
def test_another_body_is_refused(body: object) -> None:
    with pytest.raises(RefusedError, match="wrong_signature"):
        opened(signed(), body)


def test_the_end_of_the_statement_can_not_be_moved_into_the_body() -> None:
    headers = signed()
    keys = read_trusted(json.dumps([trusted_as("worker1", KEY)]))
    longer = {**headers, STATEMENT: headers[STATEMENT] + "\n" + BODY.decode()}
    with pytest.raises(RefusedError, match="wrong_signature"):
        verify(keys, longer, b"", content_type=JSON, now=0)


def test_another_content_type_is_refused() -> None:
    with pytest.raises(RefusedError, match="wrong_signature"):
        opened(signed(), content_type="application/x-python-serialize")


@pytest.mark.parametrize("signature", ["", "x", "AAAA", "!"])
def test_nonsense_is_no_signature(signature: str) -> None:
    with pytest.raises(RefusedError, match="wrong_signature"):
        opened({**signed(), SIGNATURE: signature})


@pytest.mark.parametrize(
    "statement",
    ["", "{}", "[]", "1", '{"key": []}', "[" * 100_000, '{"key": {"__type__": "bytes"}}'],
)
def test_nonsense_is_no_statement(statement: str) -> None:
    with pytest.raises(RefusedError, match="wrong_signature"):
        verify({}, {**signed(), STATEMENT: statement}, BODY, content_type=JSON, now=0)


def test_the_key_of_a_stranger_is_refused() -> None:
    with pytest.raises(RefusedError, match="unknown_key"):
        opened(signed(key=STRANGER))


@pytest.mark.parametrize(
    "values",
    [
        {"at": "x"},
        {"at": None},
        {"at": float("nan")},
        {"headers": []},
        {"properties": 1},
        {"routing_key": 3},
        {"nonce": []},
        {"more": 1},
    ],
)
def test_a_sender_that_signs_nonsense_is_refused(values: dict[str, Any]) -> None:
    """Its key may be stolen, and an exception would end the worker."""
    stated = json.dumps({**json.loads(signed()[STATEMENT]), **values})
    signature = base64.b64encode(KEY.sign(signed_bytes(stated, BODY))).decode()
    keys = read_trusted(json.dumps([trusted_as("worker1", KEY)]))
    with pytest.raises(RefusedError, match="wrong_signature"):
        verify(keys, {STATEMENT: stated, SIGNATURE: signature}, BODY, content_type=JSON, now=0)


def test_a_key_that_signs_no_more_is_trusted_for_what_it_signed_before() -> None:
    headers = signed()
    at = json.loads(headers[STATEMENT])["at"]
    assert opened(headers, until=at - SKEW_SECONDS + 1)
    with pytest.raises(RefusedError, match="wrong_signature"):
        opened(headers, until=at - SKEW_SECONDS - 1)


def test_a_sender_whose_clock_is_ahead_is_refused() -> None:
    assert opened(signed(), after=1 - SKEW_SECONDS)
    with pytest.raises(RefusedError, match="clock"):
        opened(signed(), after=-1 - SKEW_SECONDS)


def test_a_message_is_due_at_its_eta() -> None:
    sent = opened(signed())[1]
    assert sent.due == sent.at
    later = opened(signed(headers={**HEADERS, "eta": "2100-01-01T00:00:00+00:00"}))[1]
    assert later.due == 4102444800
    assert opened(signed(headers={**HEADERS, "eta": "nonsense"}))[1].due > 0


def test_only_an_ed25519_key_signs() -> None:
    with pytest.raises(ValueError, match="not an Ed25519 key"):
        Signer(pem(generate_private_key(SECP256R1())))


def test_keys_are_read_again_when_their_files_change(tmp_path: Path) -> None:
    """A rotation needs no restart."""
    private, public = tmp_path / "sender.key", tmp_path / "trusted.json"
    with pytest.raises(OSError, match="No such file"):
        _ = SenderKey(private).signer
    for path, old, new in (
        (private, pem(KEY), pem(STRANGER)),
        (public, json.dumps([trusted_as("a", KEY)]).encode(), json.dumps([trusted_as("b", STRANGER)]).encode()),
    ):
        path.write_bytes(old)
        read: Any = SenderKey(path) if path == private else Trust(path)
        before = read.signer if path == private else read.keys
        replacement = tmp_path / "new"
        replacement.write_bytes(new)
        replacement.replace(path)
        after = read.signer if path == private else read.keys
        assert after is not before
        # A moment without the file, and a damaged one, change nothing.
        path.unlink()
        assert (read.signer if path == private else read.keys) is after
