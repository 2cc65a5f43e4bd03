"""Compute the changes between the definitions of a RabbitMQ broker and the declared ones.

Both sides use RabbitMQ's format: `rabbitmqctl export_definitions` gives the current definitions, `import_definitions`
applies the difference (https://www.rabbitmq.com/docs/definitions).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ansible_collections.fleet.celery.plugins.module_utils._shovels import PREFIX

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

Definitions = dict[str, list[dict[str, Any]]]

USER = "rabbitmq"
SALT_BYTES = 4
HASHING = "rabbit_password_hashing_sha256"
_DIGESTS = {HASHING: "sha256", "rabbit_password_hashing_sha512": "sha512"}

# The properties that identify an object in its vhost, and the properties that are compared.
_KEYS = {
    "exchanges": ("name",),
    "queues": ("name",),
    "policies": ("name",),
    "bindings": ("source", "destination", "destination_type", "routing_key"),
}
_PROPERTIES = {
    "exchanges": ("type", "durable", "auto_delete", "arguments"),
    "queues": ("durable", "auto_delete", "arguments"),
    "policies": ("pattern", "apply-to", "definition", "priority"),
    "bindings": ("arguments",),
}
_PERMISSIONS = ("configure", "write", "read")


class DefinitionsError(Exception):
    """The broker can't be changed to the declared definitions. The message has the fix."""


@dataclass(frozen=True)
class User:
    """A user of the broker.

    Attributes:
        tags: tags, which grant access to the management API; without tags, the user can't log in there.
    """

    name: str
    password: str = field(repr=False)
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Desired:
    """The declared state of a vhost and its users.

    Attributes:
        permissions: patterns by user.
        add_permissions: whether users keep the permissions that they have beside the declared ones.
        limits: limits of the vhost by RabbitMQ's names, e.g. max-queues.
        shovels: definitions of a fleet's shovels by their names; None: they are left alone.
        exchanges, queues, bindings, policies: objects in RabbitMQ's format, without the vhost.
        absent_users: names of users that must not exist.
    """

    vhost: str
    users: tuple[User, ...] = ()
    permissions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    exchanges: Sequence[Mapping[str, Any]] = ()
    queues: Sequence[Mapping[str, Any]] = ()
    bindings: Sequence[Mapping[str, Any]] = ()
    policies: Sequence[Mapping[str, Any]] = ()
    absent_users: tuple[str, ...] = ()
    add_permissions: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)
    shovels: Mapping[str, Mapping[str, Any]] | None = field(default=None, repr=False)


@dataclass
class Difference:
    """The changes of a broker.

    Attributes:
        definitions: input of import_definitions, with salted hashes of passwords, but no passwords.
        deleted_users: names of users to delete.
        cleared_permissions: vhost and user of each permission to clear.
        deleted_shovels: names of shovels to delete.
        before, after: the diff to display, without passwords and hashes.
    """

    definitions: Definitions = field(default_factory=dict)
    deleted_users: list[str] = field(default_factory=list)
    cleared_permissions: list[tuple[str, str]] = field(default_factory=list)
    deleted_shovels: list[str] = field(default_factory=list)
    before: dict[str, Any] = field(default_factory=dict)
    after: dict[str, Any] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        return bool(self.definitions or self.deleted_users or self.cleared_permissions or self.deleted_shovels)

    def add(self, kind: str, label: str, item: dict[str, Any] | None, shown: tuple[Any, Any]) -> None:
        """Add a change of an object.

        Args:
            item: the object to import; None if it is removed.
            shown: its state before and after for the diff; None where it does not exist.
        """
        if item is not None:
            self.definitions.setdefault(kind, []).append(item)
        for side, value in zip((self.before, self.after), shown, strict=True):
            if value is not None:
                side.setdefault(kind, {})[label] = value


def password_hash(password: str, salt: bytes) -> str:
    """Return a password's hash in RabbitMQ's format (https://www.rabbitmq.com/docs/passwords)."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def password_matches(password: str, stored: str, algorithm: str) -> bool:
    """Return whether a stored hash matches a password; False for an invalid hash or an unknown algorithm."""
    digest = _DIGESTS.get(algorithm)
    if digest is None:
        return False
    try:
        raw = base64.b64decode(stored, validate=True)
    except (binascii.Error, ValueError):
        return False
    salt = raw[:SALT_BYTES]
    return hmac.compare_digest(raw[SALT_BYTES:], hashlib.new(digest, salt + password.encode()).digest())


def difference(current: Mapping[str, Any], desired: Desired, new_salt: Callable[[], bytes]) -> Difference:
    """Return the changes from the broker's definitions to the declared ones.

    Undeclared users, permissions and objects are not changed, with one exception: undeclared permissions of a declared
    user are cleared, unless the user is an administrator, who can grant itself any.

    Args:
        current: output of export_definitions; empty for a broker that does not exist yet.
        new_salt: function that returns SALT_BYTES random bytes.

    Raises:
        DefinitionsError: an exchange or a queue exists with other properties, which RabbitMQ can't change.
    """
    result = Difference()
    if not any(item["name"] == desired.vhost for item in current.get("vhosts", [])):
        result.add("vhosts", desired.vhost, {"name": desired.vhost}, (None, {}))
    _users(current, desired, new_salt, result)
    _permissions(current, desired, result)
    _limits(current, desired, result)
    _shovels(current, desired, result)
    for kind in _KEYS:
        _objects(kind, current, desired, result)
    return result


def _tags(user: Mapping[str, Any]) -> list[str]:
    """Return a user's tags. RabbitMQ before 3.9 exports them as one string."""
    tags = user.get("tags") or []
    return sorted(tag for tag in (tags.split(",") if isinstance(tags, str) else tags) if tag)


def _users(current: Mapping[str, Any], desired: Desired, new_salt: Callable[[], bytes], result: Difference) -> None:
    there = {item["name"]: item for item in current.get("users", [])}
    for user in desired.users:
        old, tags = there.get(user.name), sorted(user.tags)
        same_password = old is not None and password_matches(
            user.password, str(old.get("password_hash") or ""), str(old.get("hashing_algorithm") or HASHING)
        )
        if old is not None and same_password and _tags(old) == tags:
            continue
        item = {
            "name": user.name,
            "password_hash": old["password_hash"]
            if old and same_password
            else password_hash(user.password, new_salt()),
            "hashing_algorithm": old.get("hashing_algorithm", HASHING) if old and same_password else HASHING,
            "tags": tags,
        }
        before = (
            None if old is None else {"tags": _tags(old), "password": "(as declared)" if same_password else "(another)"}
        )
        result.add("users", user.name, item, (before, {"tags": tags, "password": "(as declared)"}))
    for name in desired.absent_users:
        if name in there:
            result.deleted_users.append(name)
            result.add("users", name, None, ({"tags": _tags(there[name])}, None))


def _permissions(current: Mapping[str, Any], desired: Desired, result: Difference) -> None:
    there = {
        (item["vhost"], item["user"]): {verb: item[verb] for verb in _PERMISSIONS}
        for item in current.get("permissions", [])
    }
    for user, wanted in desired.permissions.items():
        patterns = {verb: wanted[verb] for verb in _PERMISSIONS}
        old = there.get((desired.vhost, user))
        if old is not None and desired.add_permissions:
            patterns = {verb: _joined(old[verb], patterns[verb]) for verb in _PERMISSIONS}
        if old != patterns:
            item = {"user": user, "vhost": desired.vhost, **patterns}
            result.add("permissions", f"{user} on {desired.vhost}", item, (old, patterns))
    held_exactly = {user.name for user in desired.users if "administrator" not in user.tags}
    for (vhost, user), patterns in there.items():
        if user in held_exactly and not (vhost == desired.vhost and user in desired.permissions):
            result.cleared_permissions.append((vhost, user))
            result.add("permissions", f"{user} on {vhost}", None, (patterns, None))


def _joined(old: str, new: str) -> str:
    """Return a regular expression that matches what either of the two matches."""
    return old if new in old else f"{old}|{new}"


def _limits(current: Mapping[str, Any], desired: Desired, result: Difference) -> None:
    if not desired.limits:
        return
    wanted = {"component": "vhost-limits", "name": "limits", "vhost": desired.vhost, "value": dict(desired.limits)}
    identity = ("component", "name", "vhost")
    old = next(
        (
            dict(item["value"])
            for item in current.get("parameters", [])
            if all(item.get(name) == wanted[name] for name in identity)
        ),
        None,
    )
    if old != wanted["value"]:
        result.add("parameters", f"limits of {desired.vhost}", wanted, (old, wanted["value"]))


def _shovels(current: Mapping[str, Any], desired: Desired, result: Difference) -> None:
    """Add, replace and remove shovels whose names have a fleet's prefix. Their URIs are not shown."""
    if desired.shovels is None:
        return

    def shown(value: Mapping[str, Any] | None) -> dict[str, Any] | None:
        return None if value is None else {key: item for key, item in value.items() if key != "src-uri"}

    there = {
        item["name"]: dict(item["value"])
        for item in current.get("parameters", [])
        if (item["component"], item.get("vhost")) == ("shovel", desired.vhost) and item["name"].startswith(PREFIX)
    }
    for name, value in desired.shovels.items():
        if there.get(name) != value:
            item = {"component": "shovel", "name": name, "vhost": desired.vhost, "value": dict(value)}
            result.add("parameters", f"shovel {name}", item, (shown(there.get(name)), shown(value)))
    for name in sorted(there.keys() - desired.shovels.keys()):
        result.deleted_shovels.append(name)
        result.add("parameters", f"shovel {name}", None, (shown(there[name]), None))


def _plain(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return properties without the default queue type, which only some versions of RabbitMQ export."""
    arguments = dict(properties.get("arguments") or {})
    if arguments.get("x-queue-type") == "classic":
        del arguments["x-queue-type"]
    return {**properties, "arguments": arguments}


def _objects(kind: str, current: Mapping[str, Any], desired: Desired, result: Difference) -> None:
    def key(item: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(item[name]) for name in _KEYS[kind])

    there = {key(item): item for item in current.get(kind, []) if item["vhost"] == desired.vhost}
    for item in getattr(desired, kind):
        old = there.get(key(item))
        wanted = {name: item[name] for name in _PROPERTIES[kind] if name in item}
        had = None if old is None else {name: old.get(name) for name in wanted}
        if had is not None and _plain(had) == _plain(wanted):
            continue
        label = " ".join(part for part in key(item) if part)
        if had is not None and kind in ("exchanges", "queues"):
            raise DefinitionsError(
                f"{kind[:-1]} {label!r} in vhost {desired.vhost!r} exists as {had}, but is declared as {wanted}. "
                f"RabbitMQ can't change it: move its messages and delete it, or choose another name"
            )
        result.add(kind, label, {**item, "vhost": desired.vhost}, (had, wanted))


def find_command(module: AnsibleModule, name: str) -> str | None:
    """Return the path of a command of RabbitMQ, or None if it is not installed.

    It is not Debian's wrapper in /usr/sbin, which passes its arguments to a shell.
    """
    path: str | None = module.get_bin_path(name, opt_dirs=["/usr/lib/rabbitmq/bin"])
    return path


def as_rabbitmq(*command: str) -> list[str]:
    """Return the argument list that runs a command of RabbitMQ as RabbitMQ's user.

    Its commands source files and load code from the home of that user, so root must not run them.
    """
    return ["runuser", "-u", USER, "--", "/usr/bin/env", "HOME=/var/lib/rabbitmq", *command]
