"""Secrets of a fleet on the controller: generated passwords and private keys, each in a file of a directory.

A file has a secret as it is, or encrypted with Ansible Vault, and is read whichever form it has. The file <name>.next
has the value of a password that is not in force yet.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import string
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible import constants
from ansible.errors import AnsibleError
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.parsing.vault import AnsibleVaultFormatError, VaultLib, is_encrypted, match_encrypt_secret
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

LENGTH = 32
CHARACTERS = string.ascii_letters + string.digits
#: Suffix of the file of a value that is not in force yet.
NEXT = ".next"
_ADD_VAULT = "Run it with --vault-password-file FILE or --ask-vault-pass, or set vault_password_file in ansible.cfg"
_CHANGE_VAULT = "Run it with the vault password with which it was encrypted"
_PASSWORD = re.compile(rf"[a-z][a-z0-9_-]*({re.escape(NEXT)})?")
_KEYS = "*/*.key"


class SecretError(Exception):
    """A secret can't be read or written. The text is for the user.

    Attributes:
        problem: the same: where, what, and how to fix it.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


@dataclass(frozen=True)
class SecretStore:
    """A directory of secrets.

    Attributes:
        directory: made when a secret is written.
        vault: has the vault passwords of the run.
        encrypted: whether secrets are written encrypted.
    """

    directory: Path
    vault: VaultLib = field(default_factory=VaultLib, repr=False)
    encrypted: bool = False

    def below(self, name: str) -> SecretStore:
        """Return the store of a directory in this one."""
        return replace(self, directory=self.directory / name)

    def exists(self, name: str) -> bool:
        """Return whether there is a secret."""
        return (self.directory / name).exists()

    def read(self, name: str) -> str:
        """Return a secret.

        Raises:
            SecretError: it is encrypted, and no vault password of the run fits, or it is damaged.
            OSError: there is no such file, or it can't be read.
        """
        path = self.directory / name
        data = path.read_bytes()
        try:
            return (self._decrypt(path, data) if is_encrypted(data) else data).decode()
        except UnicodeDecodeError:
            raise SecretError(Problem(str(path), "is not text in UTF-8", "Restore it from your backup")) from None

    def write(self, name: str, text: str) -> None:
        """Write a secret atomically, readable by the user of this process only.

        Raises:
            SecretError: it is to be encrypted, and the run has no vault password.
            OSError: the directory can't be written to.
        """
        path = self.directory / name
        data = self._encrypt(path, text) if self.encrypted else text.encode()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # mkstemp makes a file that only its owner can read.
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def obtain(self, name: str, make: Callable[[], str]) -> str:
        """Return a secret, which is made if there is none. Of several processes, one makes it, and the others wait."""
        if not self.exists(name):
            with self.locked():
                if not self.exists(name):
                    self.write(name, make())
        return self.read(name)

    def move(self, name: str, to: str) -> None:
        """Replace a secret by another one atomically. It is encrypted if this store writes secrets encrypted."""
        self.encrypt(name)
        (self.directory / name).replace(self.directory / to)

    def encrypt(self, name: str) -> bool:
        """Encrypt a secret if this store writes secrets encrypted, and return whether it was not."""
        if not self.encrypted or self._is_encrypted(name):
            return False
        self.write(name, self.read(name))
        return True

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of this store, which is not reentrant. Its directory is made if needed."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.directory / ".lock").open("w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def names(self) -> list[str]:
        """Return the secrets of a fleet's directory: passwords, and private keys in the directories below it."""
        files = [path.name for path in self.directory.glob("*") if path.is_file()]
        keys = [str(path.relative_to(self.directory)) for path in self.directory.glob(_KEYS)]
        return sorted(filter(_PASSWORD.fullmatch, files)) + sorted(keys)

    def plain_names(self) -> list[str]:
        """Return the secrets that are to be encrypted, but are not."""
        return [name for name in self.names() if self.encrypted and not self._is_encrypted(name)]

    def problems(self) -> list[Problem]:
        """Return why this run can't read or write the secrets."""
        if self.encrypted and not self.vault.secrets:
            return [Problem("celery_secrets_encrypted", "is true, but this run has no vault password", _ADD_VAULT)]
        found: dict[tuple[str, str], list[str]] = {}
        for name in self.names():
            try:
                self.read(name)
            except SecretError as error:
                found.setdefault((error.problem.what, error.problem.fix), []).append(name)
        return [Problem(f"{', '.join(names)} in {self.directory}", what, fix) for (what, fix), names in found.items()]

    def _is_encrypted(self, name: str) -> bool:
        return bool(is_encrypted((self.directory / name).read_bytes()))

    def _encrypt(self, path: Path, text: str) -> bytes:
        """Encrypt a text as ansible-vault does: with vault_encrypt_identity, or else the first vault password."""
        if not self.vault.secrets:
            what = "is to be encrypted with Ansible Vault, but this run has no vault password"
            raise SecretError(Problem(str(path), what, _ADD_VAULT))
        try:
            identity, secret = match_encrypt_secret(self.vault.secrets, constants.DEFAULT_VAULT_ENCRYPT_IDENTITY)
            data: bytes = VaultLib(self.vault.secrets).encrypt(text, secret, vault_id=identity)
        except AnsibleError as error:
            fix = "Correct vault_encrypt_identity or the vault ids of this run"
            raise SecretError(Problem(str(path), f"can't be encrypted: {error}", fix)) from None
        return data

    def _decrypt(self, path: Path, data: bytes) -> bytes:
        if not self.vault.secrets:
            what = "is encrypted with Ansible Vault, but this run has no vault password"
            raise SecretError(Problem(str(path), what, _ADD_VAULT))
        try:
            return bytes(self.vault.decrypt(data))
        except AnsibleVaultFormatError:
            what = "is a damaged file of Ansible Vault"
            raise SecretError(Problem(str(path), what, "Restore it from your repository or backup")) from None
        except AnsibleError:
            what = "is encrypted with another vault password than those of this run"
            raise SecretError(Problem(str(path), what, _CHANGE_VAULT)) from None


def read_password(store: SecretStore, name: str) -> str:
    """Return a password, which is generated if there is none."""
    password = store.obtain(name, new_password).rstrip()
    if not password:
        what = "has no password"
        raise SecretError(Problem(str(store.directory / name), what, "Restore it from your backup, or remove it"))
    return password


def new_password() -> str:
    """Return a new password as a line."""
    return "".join(secrets.choice(CHARACTERS) for _ in range(LENGTH)) + "\n"


def prepare(store: SecretStore, name: str) -> bool:
    """Generate the next value of a password, and return whether there was none."""
    if store.exists(name + NEXT):
        return False
    store.write(name + NEXT, new_password())
    return True


def promote(store: SecretStore, name: str) -> bool:
    """Put the next value of a password in force, and return whether there was one."""
    if not store.exists(name + NEXT):
        return False
    store.move(name + NEXT, name)
    return True


def open_store(directory: str, plugin: Any, variables: Mapping[str, Any]) -> SecretStore:  # noqa: ANN401 - Ansible's
    """Return the store of a run of Ansible.

    Args:
        plugin: a lookup or an action. Its loader has the vault passwords, which no other process gets.
        variables: celery_secrets_encrypted says whether secrets are written encrypted.
    """
    # Options of lookups that have variables do not render them.
    encrypted = plugin._templar.template(variables.get("celery_secrets_encrypted") or False)
    return SecretStore(Path(directory), VaultLib(plugin._loader._vault.secrets), boolean(encrypted))
