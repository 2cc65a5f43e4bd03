"""Keys that sign messages: private ones on the controller, one for each sender, and those that receivers trust.

While the keys are replaced, receivers trust the new ones and the earlier ones. Then an earlier key is trusted for the
messages that it signed before, as long as these may still be valid.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ansible_collections.fleet.celery.plugins.plugin_utils._secrets import SecretStore
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

_EARLIER = "earlier.json"


@dataclass(frozen=True)
class TrustedKey:
    """A public key that receivers trust, as celery_fleet_runtime.signing reads it.

    Attributes:
        public: base64 of its 32 bytes.
        until: time after which it signs no more, in seconds since the epoch; None if it is in use.
    """

    sender: str
    operator: bool
    public: str
    until: float | None = None


@dataclass(frozen=True)
class SigningKeys:
    """The keys of a fleet.

    Attributes:
        store: the directory of the private keys.
        senders: whether each may control workers, by name.
        keep: seconds for which a message that an earlier key has signed may be valid.
    """

    store: SecretStore
    senders: Mapping[str, bool]
    keep: int

    def private(self, *, write: bool) -> dict[str, str]:
        """Return the present key of each sender, in PEM. A key that is missing is made.

        Args:
            write: whether it is kept.
        """
        return {name: self._obtain(_file(name), write=write) for name in self.senders}

    def trusted(self, private: Mapping[str, str], now: float) -> list[TrustedKey]:
        """Return the keys that receivers trust: the present ones, the next ones, and the earlier ones.

        Args:
            private: of each sender, in PEM.
        """
        present = [_trusted(name, pem, operator=self.senders[name]) for name, pem in private.items()]
        following = [
            _trusted(name, self.store.read(_next_file(name)), operator=self.senders[name])
            for name in self.senders
            if self.store.exists(_next_file(name))
        ]
        return [*present, *following, *self._kept(now)]

    def retire(self, now: float) -> bool:
        """Remove the keys of those that are no senders any more, and return whether there was one.

        What they have signed stays valid.
        """
        files = sorted(path.name for path in self.store.directory.glob("*.key"))
        known = {file for name in self.senders for file in (_file(name), _next_file(name))}
        left = [file for file in files if file not in known]
        for file in left:
            if not file.endswith(_next_file("")):
                # As one that may not control workers.
                retired = replace(_trusted(file.removesuffix(_file("")), self.store.read(file)), until=now)
                self._write_earlier([*self._earlier(), retired])
            (self.store.directory / file).unlink()
        return bool(left)

    def prepare(self) -> bool:
        """Make the next key of each sender, and return whether one was missing."""
        missing = [name for name in self.senders if not self.store.exists(_next_file(name))]
        for name in missing:
            self._obtain(_next_file(name), write=True)
        return bool(missing)

    def promote(self) -> bool:
        """Put the next keys in force, and return whether there was one. The present ones become earlier ones."""
        following = [name for name in self.senders if self.store.exists(_next_file(name))]
        for name in following:
            # First, so that an interruption leaves a key that is trusted twice, and not at all never.
            present = _trusted(name, self.store.read(_file(name)), operator=self.senders[name])
            self._write_earlier([*self._earlier(), present])
            self.store.move(_next_file(name), _file(name))
        return bool(following)

    def end(self, now: float) -> bool:
        """Note that the earlier keys sign no more, and return whether one did."""
        return self._change(lambda key: TrustedKey(key.sender, key.operator, key.public, key.until or now))

    def forget(self) -> bool:
        """Trust no earlier key any more, and return whether there was one."""
        return self._change(lambda _: None)

    def _change(self, change: Callable[[TrustedKey], TrustedKey | None]) -> bool:
        before = list(self._earlier())
        after = [changed for key in before if (changed := change(key))]
        if after != before:
            self._write_earlier(after)
        return after != before

    def _kept(self, now: float) -> Iterator[TrustedKey]:
        return (key for key in self._earlier() if key.until is None or key.until + self.keep > now)

    def _earlier(self) -> Iterator[TrustedKey]:
        path = self._earlier_path
        return (TrustedKey(**each) for each in (json.loads(path.read_text(encoding="utf-8")) if path.exists() else ()))

    def _write_earlier(self, keys: Iterable[TrustedKey]) -> None:
        # Not a secret, but it decides whom workers trust.
        unique = dict.fromkeys(keys)
        temporary = self._earlier_path.with_suffix(".part")
        temporary.write_text(as_json(unique), encoding="utf-8")
        temporary.replace(self._earlier_path)

    @property
    def _earlier_path(self) -> Path:
        return self.store.directory / _EARLIER

    def _obtain(self, file: str, *, write: bool) -> str:
        if not write and not self.store.exists(file):
            return _new_key()
        return self.store.obtain(file, _new_key)


def _trusted(name: str, pem: str, *, operator: bool = False) -> TrustedKey:
    """Return a sender's key as receivers trust it. Raises ValueError if it is no such key."""
    key = load_pem_private_key(pem.encode(), None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{_file(name)} is not an Ed25519 key. Restore it from your backup")
    return TrustedKey(name, operator, base64.b64encode(key.public_key().public_bytes_raw()).decode())


def as_json(keys: Iterable[TrustedKey]) -> str:
    """Return trusted keys as the file that receivers read."""
    return json.dumps([asdict(key) for key in keys], indent=1) + "\n"


def _file(name: str) -> str:
    return f"{name}.key"


def _next_file(name: str) -> str:
    return f"{name}.next.key"


def _new_key() -> str:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
