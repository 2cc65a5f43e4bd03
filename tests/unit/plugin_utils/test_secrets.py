"""The secrets of a fleet on the controller, plain and encrypted."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ansible import constants
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import (
    SecretError,
    SecretStore,
    new_password,
    prepare,
    promote,
    read_password,
)

NAME = "rabbitmq_application"


def vault(*passwords: str, identity: str = "default") -> VaultLib:
    return VaultLib([(identity, VaultSecret(password.encode())) for password in passwords])


def encrypted(directory: Path, *passwords: str) -> SecretStore:
    return SecretStore(directory, vault(*passwords or ("right",)), encrypted=True)


@pytest.fixture(params=[False, True], ids=["plain", "encrypted"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SecretStore:
    return encrypted(tmp_path / "secrets") if request.param else SecretStore(tmp_path / "secrets")


def test_generated_passwords_are_long_and_for_their_owner_only(store: SecretStore) -> None:
    assert prepare(store, NAME)
    assert not prepare(store, NAME)
    assert promote(store, NAME)
    assert not promote(store, NAME)
    assert len(read_password(store, NAME)) == 32
    assert ((store.directory / NAME).stat().st_mode & 0o777, store.directory.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in store.directory.iterdir()] == [NAME]


def test_one_of_several_processes_generates_a_password(store: SecretStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(lambda _: read_password(store, NAME), range(8)))) == 1


def test_encrypted_secrets_are_files_of_ansible_vault(tmp_path: Path) -> None:
    store = encrypted(tmp_path)
    store.below("ca").write("ca.key", "text")
    password = read_password(store, NAME)
    (tmp_path / "pass").write_text("right\n", encoding="utf-8")
    for path, text in ((tmp_path / NAME, f"{password}\n"), (tmp_path / "ca" / "ca.key", "text")):
        assert path.read_bytes().startswith(b"$ANSIBLE_VAULT;1.1;AES256\n")
        tool = str(Path(sys.executable).with_name("ansible-vault"))
        argv = [tool, "decrypt", "--vault-password-file", f"{tmp_path}/pass", "--output", "-", str(path)]
        assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == text


def test_a_secret_is_read_whichever_form_it_has(tmp_path: Path) -> None:
    SecretStore(tmp_path).write("a", "1\n")
    encrypted(tmp_path).write("b", "2\n")
    assert [read_password(encrypted(tmp_path), name) for name in "ab"] == ["1", "2"]
    assert [read_password(SecretStore(tmp_path, vault("wrong", "right")), name) for name in "ab"] == ["1", "2"]


def test_a_plain_store_is_encrypted(tmp_path: Path) -> None:
    plain = SecretStore(tmp_path)
    names = ["alertmanager", f"{NAME}.next", "ca/ca.key", "signing/release.key"]
    for name in names:
        parent, _, file = name.rpartition("/")
        (plain.below(parent) if parent else plain).write(file, f"{name}\n")
    others = ["README.md", ".gitignore", ".lock", "ca/ca.crt", "rollouts/1.html"]
    for other in others:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("public", encoding="utf-8")
    assert plain.plain_names() == []
    assert [plain.encrypt(name) for name in names] == [False] * 4
    store = encrypted(tmp_path)
    assert store.plain_names() == names
    assert [store.encrypt(name) for name in names] == [True] * 4
    assert [store.encrypt(name) for name in names] == [False] * 4
    assert not store.plain_names()
    assert not store.problems()
    assert [store.read(name) for name in names] == [f"{name}\n" for name in names]
    assert {(tmp_path / other).read_text(encoding="utf-8") for other in others} == {"public"}


def test_a_value_that_was_prepared_before_is_encrypted_when_it_is_put_in_force(tmp_path: Path) -> None:
    prepare(SecretStore(tmp_path), NAME)
    promote(encrypted(tmp_path), NAME)
    assert encrypted(tmp_path).plain_names() == []


def test_the_first_vault_password_encrypts(tmp_path: Path) -> None:
    encrypted(tmp_path, "first", "second").write(NAME, "text")
    assert SecretStore(tmp_path, vault("first")).read(NAME) == "text"


def test_the_configuration_may_say_which_vault_password_encrypts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = VaultLib([*vault("other", identity="team").secrets, *vault("right", identity="fleet").secrets])
    monkeypatch.setattr(constants, "DEFAULT_VAULT_ENCRYPT_IDENTITY", "fleet")
    SecretStore(tmp_path, ours, encrypted=True).write(NAME, "text")
    assert (tmp_path / NAME).read_bytes().startswith(b"$ANSIBLE_VAULT;1.2;AES256;fleet\n")
    assert SecretStore(tmp_path, vault("right")).read(NAME) == "text"
    monkeypatch.setattr(constants, "DEFAULT_VAULT_ENCRYPT_IDENTITY", "nobody")
    with pytest.raises(SecretError, match="Correct vault_encrypt_identity"):
        SecretStore(tmp_path, ours, encrypted=True).write(NAME, "text")


def test_without_a_vault_password_nothing_is_written(tmp_path: Path) -> None:
    store = SecretStore(tmp_path / "secrets", VaultLib(None), encrypted=True)
    (problem,) = store.problems()
    assert str(problem).startswith("celery_secrets_encrypted: is true, but this run has no vault password. Run")
    with pytest.raises(SecretError, match=f"secrets/{NAME}: is to be encrypted with Ansible Vault, but"):
        store.write(NAME, new_password())
    assert not store.directory.exists()


@pytest.mark.parametrize(
    ("passwords", "what"),
    [
        ((), "is encrypted with Ansible Vault, but this run has no vault password. Run it with --vault-password-file"),
        (("wrong",), "is encrypted with another vault password than those of this run. Run it with the vault password"),
    ],
)
def test_an_encrypted_secret_needs_its_vault_password(tmp_path: Path, passwords: tuple[str, ...], what: str) -> None:
    for name in (NAME, "prometheus"):
        encrypted(tmp_path).write(name, new_password())
    store = SecretStore(tmp_path, vault(*passwords))
    with pytest.raises(SecretError, match=f"{tmp_path}/{NAME}: {what}"):
        store.read(NAME)
    (problem,) = store.problems()
    assert str(problem).startswith(f"prometheus, {NAME} in {tmp_path}: {what}")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"$ANSIBLE_VAULT", "is a damaged file of Ansible Vault"),
        (b"$ANSIBLE_VAULT;1.1;AES256\nzz\n", "is a damaged file of Ansible Vault"),
        (b"\xff", "is not text in UTF-8"),
    ],
)
def test_a_damaged_secret_is_named(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / NAME).write_bytes(data)
    (problem,) = SecretStore(tmp_path, vault("right")).problems()
    assert str(problem).startswith(f"{NAME} in {tmp_path}: {what}. Restore it from your")


def test_an_empty_file_is_no_password(store: SecretStore) -> None:
    store.write(NAME, "\n")
    with pytest.raises(SecretError, match="has no password"):
        read_password(store, NAME)
