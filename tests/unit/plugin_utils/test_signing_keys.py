"""Keys that sign messages, and whom receivers trust while they are replaced."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.fleet.celery.plugins.module_utils.celery_fleet_runtime.signing import (
    STATEMENT,
    RefusedError,
    Signer,
    read_trusted,
    verify,
)
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from ansible_collections.fleet.celery.plugins.plugin_utils._signing_keys import SigningKeys, as_json
from signed_messages import BODY, HEADERS, JSON

KEEP = 1000
SENDERS = {"worker1": False, "worker1.operator": True}


@pytest.fixture
def keys(tmp_path: Path) -> SigningKeys:
    return SigningKeys(SecretStore(tmp_path / "signing"), SENDERS, KEEP)


def signed(keys: SigningKeys, sender: str = "worker1") -> dict[str, str]:
    signer = Signer(keys.private(write=True)[sender].encode())
    return signer.sign(BODY, HEADERS, {}, content_type=JSON, exchange="shop", routing_key="customers")


def accepted(keys: SigningKeys, headers: dict[str, str], after: float = 1) -> bool:
    """Return whether receivers accept a message, some seconds after it was sent."""
    now = json.loads(headers[STATEMENT])["at"] + after
    trusted = read_trusted(as_json(keys.trusted(keys.private(write=True), now)))
    try:
        verify(trusted, headers, BODY, content_type=JSON, now=now)
    except RefusedError:
        return False
    return True


def test_each_sender_has_a_key_that_only_the_user_can_read(keys: SigningKeys, tmp_path: Path) -> None:
    private = keys.private(write=True)
    assert keys.private(write=True) == private
    assert len(set(private.values())) == 2
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "signing").glob("*.key")} == {0o600}
    assert [key.operator for key in keys.trusted(private, 0)] == [False, True]


def test_a_preview_keeps_no_key(keys: SigningKeys, tmp_path: Path) -> None:
    assert set(keys.private(write=False)) == set(SENDERS)
    assert not (tmp_path / "signing").exists()


def test_no_message_is_refused_while_keys_are_replaced(keys: SigningKeys) -> None:
    """Each step trusts what the one before and the one after it sign."""
    first = signed(keys)
    assert keys.prepare()
    assert accepted(keys, first)
    prepared = as_json(keys.trusted(keys.private(write=True), 0))
    assert keys.promote()
    second = signed(keys)
    # A receiver that has the keys of the step before trusts the new one, too.
    now = json.loads(second[STATEMENT])["at"]
    assert verify(read_trusted(prepared), second, BODY, content_type=JSON, now=now)
    assert accepted(keys, first)
    assert keys.end(now)
    assert accepted(keys, first)
    assert accepted(keys, second)
    assert not keys.end(now + 1), "it has ended"
    assert not accepted(keys, first, after=KEEP + 10)


def test_a_key_that_was_replaced_signs_no_more(keys: SigningKeys) -> None:
    stolen = keys.private(write=True)["worker1"].encode()
    keys.prepare()
    keys.promote()
    keys.end(1.0)
    headers = Signer(stolen).sign(BODY, HEADERS, {}, content_type=JSON, exchange="shop", routing_key="customers")
    assert not accepted(keys, headers)


def test_a_stolen_key_can_be_distrusted_at_once(keys: SigningKeys) -> None:
    first = signed(keys)
    keys.prepare()
    keys.promote()
    assert keys.forget()
    assert not accepted(keys, first)
    assert not keys.forget()


def test_an_interrupted_rotation_goes_on_with_the_same_keys(keys: SigningKeys) -> None:
    keys.private(write=True)
    keys.prepare()
    trusted = keys.trusted(keys.private(write=True), 0)
    assert not keys.prepare()
    assert keys.trusted(keys.private(write=True), 0) == trusted
    keys.promote()
    assert not keys.promote()


def test_what_a_removed_host_has_sent_stays_valid(keys: SigningKeys) -> None:
    first = signed(keys)
    others = SigningKeys(keys.store, {"worker2": False}, KEEP)
    others.private(write=True)
    now = json.loads(first[STATEMENT])["at"] + 1
    assert others.retire(now)
    assert not others.retire(now)
    assert accepted(others, first)
    assert not accepted(others, first, after=KEEP + 10)
    assert sorted(path.name for path in keys.store.directory.glob("*.key")) == ["worker2.key"]
    assert not any(key.operator for key in others.trusted(others.private(write=True), now))


def test_a_rotation_with_a_new_sender_replaces_the_keys_of_all(keys: SigningKeys) -> None:
    before = keys.private(write=True)
    more = SigningKeys(keys.store, {**SENDERS, "worker2": False}, KEEP)
    more.private(write=True)
    more.prepare()
    more.promote()
    assert not set(before.values()) & set(more.private(write=True).values())
