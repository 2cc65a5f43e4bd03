"""What a fleet needs of a broker of the user's own, and whether the broker has it.

A check leaves nothing behind. prepare_rabbitmq declares what the fleet needs and the broker lacks.
"""

from __future__ import annotations

import re
import secrets
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._amqp import (
    ACCESS_REFUSED,
    NOT_FOUND,
    AmqpError,
    Connection,
)
from ansible_collections.fleet.celery.plugins.module_utils._own_broker import VARIABLE
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._topology import celery_topology

# Seconds for each step: a provider's broker may be far away.
TIMEOUT = 15
_RABBITMQ_LEAST, _REDIS_LEAST = (3, 10), (6, 0)
# RabbitMQ 4 drops a message after 20 deliveries unless a limit is set.
_NO_LIMIT = 1_000_000_000
#: Milliseconds after which RabbitMQ deletes the quorum queue of an interrupted check.
_CHECK_EXPIRES = 60_000


@dataclass
class Findings:
    """What a check has found.

    Attributes:
        missing: what RabbitMQ has not yet of what the fleet declares.
    """

    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def problem(self, what: str, fix: str) -> None:
        self.problems.append(Problem(VARIABLE, what, fix))


def connect(broker: Mapping[str, Any], authorities: str) -> socket.socket:
    """Connect to a broker, and verify its certificate and its name if the connection has TLS.

    Args:
        broker: the plan's broker.
        authorities: certificates in PEM; empty: those that this host trusts.
    """
    plain = socket.create_connection((broker["address"], int(broker["port"])), TIMEOUT)
    if not broker["tls_port"]:
        return plain
    try:
        context = ssl.create_default_context(cadata=authorities or None)
        return context.wrap_socket(plain, server_hostname=broker["address"])
    except BaseException:
        plain.close()
        raise


def connection_problem(error: Exception, broker: Mapping[str, Any], host: str) -> Problem:
    """Return why a host can't connect to a broker, and what to do about it.

    Args:
        host: its name.
    """
    where = f"{broker['address']}:{broker['port']}"
    if isinstance(error, ssl.SSLCertVerificationError):
        what = f"{host} refuses the certificate of {where}: {error.verify_message}"
        fix = "Set celery_broker_ca to the authorities that issued it, and use the name that it is for in the URL"
    elif isinstance(error, ssl.SSLError):
        what = f"{where} does not answer with TLS: {error}"
        fix = "Use the port that has TLS, or a scheme without it: amqp:// or redis://"
    elif isinstance(error, socket.gaierror):
        what, fix = f"{host} can't resolve {broker['address']}", "Correct the name, or fix DNS there"
    elif isinstance(error, TimeoutError):
        what = f"{host} got no answer from {where} within {TIMEOUT} s"
        fix = "Open that port for the hosts of the fleet in the broker's firewall or security group"
    elif isinstance(error, RedisError) or (isinstance(error, AmqpError) and error.code == ACCESS_REFUSED):
        what = f"{where} refuses the login of {broker['user'] or 'default'}: {error}"
        fix = "Correct the user and the password"
    elif isinstance(error, AmqpError):
        what = f"{where} refuses {broker['user']} the vhost {broker['vhost']!r}: {error}"
        fix = "Correct the vhost, or grant the user access to it"
    else:
        what = f"{host} can't connect to {where}: {error}"
        fix = "Check the address, the port, and the routes and firewalls between them"
    return Problem(VARIABLE, what, fix)


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"(\d+)\.(\d+)", text)
    return tuple(map(int, found.groups())) if found else ()


def check_rabbitmq(connection: Connection, broker: Mapping[str, Any], app: str) -> Findings:
    """Return what RabbitMQ lacks."""
    found = Findings()
    product, version = connection.product, connection.version
    if product != "RabbitMQ":
        found.problem(f"is {product} {version}, not RabbitMQ", "Use RabbitMQ, whose quorum queues the fleet needs")
    elif _version(version) < _RABBITMQ_LEAST:
        found.problem(f"RabbitMQ {version} is too old", "Use RabbitMQ 3.10 or later")
    found.missing = [*_compare(connection, broker, found)]
    mark = secrets.token_hex(4)
    # The names that the fleet declares begin and end like these.
    for name in (f"{app}.check-{mark}", f"celery_delayed_check-{mark}", f"check-{mark}.celery.pidbox"):
        try:
            _use(connection, name)
        except AmqpError as error:
            found.problem(f"{broker['user']} lacks a permission: {error.text}", _grant(broker))
    # At last: a broker without such queues closes the connection.
    if any(queue["arguments"].get("x-queue-type") == "quorum" for queue in broker["queues"]):
        queue = f"{app}.check-{mark}.quorum"
        try:
            connection.declare_queue(queue, {"x-queue-type": "quorum", "x-expires": _CHECK_EXPIRES})
            connection.delete_queue(queue)
        except AmqpError as error:
            fix = _grant(broker) if error.code == ACCESS_REFUSED else "Set type: classic for all of celery_queues"
            found.problem(f"declares no quorum queue: {error.text}", fix)
    return found


def _grant(broker: Mapping[str, Any]) -> str:
    vhost, user = broker["vhost"], broker["user"]
    return f"Grant it configure, write and read: rabbitmqctl set_permissions -p {vhost} {user} '.*' '.*' '.*'"


def _use(connection: Connection, name: str) -> None:
    """Declare, bind, publish to, consume from and delete an exchange and a queue.

    Raises:
        AmqpError: the user may not. The broker removes what is left with the connection.
    """
    connection.declare_queue(name, {}, durable=False)
    connection.declare_exchange(name, "topic", temporary=True)
    connection.bind_queue(name, name, "check")
    connection.publish(name, "check", b"check")
    connection.get(name)
    # Without its last binding, the exchange is gone, too.
    connection.delete_queue(name)


def _topology(broker: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Return the durable objects of the fleet. Workers declare transient queues."""
    objects = celery_topology(broker["queues"], broker["exchange"])
    transient = {queue["name"] for queue in broker["queues"] if not queue["durable"]}
    dead, arguments = broker["dead_letter_queue"], {"x-queue-type": "quorum", "x-delivery-limit": _NO_LIMIT}
    queues = [each for each in objects["queues"] if each["name"] not in transient]
    bindings = [each for each in objects["bindings"] if each.get("queue") not in transient]
    return {
        "exchanges": [{"name": broker["dead_letter_exchange"], "type": "fanout"}, *objects["exchanges"]],
        "queues": [*queues, {"name": dead, "arguments": arguments}],
        "bindings": [{"exchange": broker["dead_letter_exchange"], "queue": dead, "routing_key": ""}, *bindings],
    }


def _declare(connection: Connection, kind: str, item: Mapping[str, Any], *, passive: bool = False) -> None:
    """Declare an exchange or a queue, or only check that it exists."""
    if kind == "exchange":
        connection.declare_exchange(item["name"], item["type"], passive=passive)
    else:
        connection.declare_queue(item["name"], item["arguments"], passive=passive)


def _compare(connection: Connection, broker: Mapping[str, Any], found: Findings) -> Iterator[str]:
    """Yield what is missing. What exists with other properties is a problem."""
    objects = _topology(broker)
    for kind in ("exchange", "queue"):
        for item in objects[f"{kind}s"]:
            label = f"{kind} {item['name']}"
            try:
                _declare(connection, kind, item, passive=True)
            except AmqpError as error:
                if error.code != NOT_FOUND:
                    found.problem(f"the {label} can't be checked: {error.text}", _grant(broker))
                yield label
                continue
            try:
                _declare(connection, kind, item)
            except AmqpError as error:
                # Who may not declare it can't compare it either, and need not.
                if error.code != ACCESS_REFUSED:
                    what = f"the {label} exists with other properties: {error.text}"
                    found.problem(what, f"Delete the {kind} once it is not used, or restore what it was declared with")


def prepare_rabbitmq(connection: Connection, broker: Mapping[str, Any]) -> Findings:
    """Declare what RabbitMQ lacks, and bind it. missing is what it lacked."""
    found = Findings()
    found.missing = [*_compare(connection, broker, found)]
    objects = _topology(broker)
    try:
        for kind in ("exchange", "queue"):
            for item in objects[f"{kind}s"]:
                if f"{kind} {item['name']}" in found.missing:
                    _declare(connection, kind, item)
        # Bindings can't be read by AMQP, so all are made again, which changes none.
        for binding in objects["bindings"]:
            if queue := binding.get("queue"):
                connection.bind_queue(queue, binding["exchange"], binding["routing_key"])
            else:
                connection.bind_exchange(binding["destination_exchange"], binding["exchange"], binding["routing_key"])
    except AmqpError as error:
        found.problem(f"{broker['user']} lacks a permission: {error.text}", _grant(broker))
    return found


class RedisError(Exception):
    """The server refuses a command. The text is the server's."""


class RedisConnection:
    """A connection to a Redis server (RESP 2). Errors of the network are OSError."""

    def __init__(self, stream: socket.socket, user: str, password: str) -> None:
        """Log in.

        Raises:
            RedisError: the server refuses the user or the password.
        """
        self._stream = stream
        self._file = stream.makefile("rb")
        self.execute("AUTH", *([user] if user else []), password)

    def execute(self, *words: str) -> Any:  # noqa: ANN401 - a reply of any type
        """Return the reply to a command.

        Raises:
            RedisError: the server refuses it.
        """
        data = [word.encode() for word in words]
        self._stream.sendall(b"*%d\r\n" % len(data) + b"".join(b"$%d\r\n%s\r\n" % (len(each), each) for each in data))
        return self._reply()

    def _reply(self) -> Any:  # noqa: ANN401
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("The broker closed the connection")
        kind, text = chr(line[0]), line[1:-2].decode(errors="replace")
        if kind == "-":
            raise RedisError(text)
        if kind == "$" and text != "-1":
            return self._file.read(int(text) + 2)[:-2].decode(errors="replace")
        if kind == "*" and text != "-1":
            return [self._reply() for _ in range(int(text))]
        return None if text == "-1" and kind in "$*" else text


def check_redis(connection: RedisConnection, broker: Mapping[str, Any]) -> Findings:
    """Return what a Redis server lacks."""
    found = Findings()
    try:
        connection.execute("SELECT", str(broker["database"]))
    except RedisError as error:
        found.problem(f"has no database {broker['database']}: {error}", "End the URL with another number, e.g. /0")
    info = _info(connection)
    _check_info(info, found)
    _check_policy(info.get("maxmemory_policy") or _configured(connection, "maxmemory-policy"), found)
    refused = [*_refused_commands(connection, broker["key_prefix"], broker["database"])]
    if refused:
        user, prefix = broker["user"] or "default", broker["key_prefix"]
        fix = f"Let it have these rules: ~{prefix}* &{prefix}* +@all -@dangerous +info"
        found.problem(f"{user} can't run what Celery needs: {'; '.join(refused)}", fix)
    return found


def _info(connection: RedisConnection) -> dict[str, str]:
    try:
        text = str(connection.execute("INFO"))
    except RedisError:
        return {}
    return dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)


def _configured(connection: RedisConnection, name: str) -> str:
    """Return a value of the server's configuration; empty if the user may not read it."""
    try:
        return str(dict([connection.execute("CONFIG", "GET", name)]).get(name, ""))
    except (RedisError, ValueError):
        return ""


def _check_info(info: Mapping[str, str], found: Findings) -> None:
    version = info.get("redis_version", "")
    if not info:
        found.warnings.append(
            f"{VARIABLE}: the user may not run INFO, so the version and the role of the server are not checked"
        )
    elif version and _version(version) < _REDIS_LEAST:
        found.problem(f"Redis {version} is too old", "Use Redis 6.0 or later")
    if info.get("cluster_enabled") == "1":
        found.problem("is a Redis cluster, which Celery can't use", "Use a server whose cluster mode is disabled")
    if info.get("role") == "slave":
        found.problem("is a replica, which accepts no writes", "Use the address of the primary")


def _check_policy(policy: str, found: Findings) -> None:
    """Refuse a policy by which a full server deletes keys. A queue is a key."""
    if not policy:
        found.warnings.append(
            f"{VARIABLE}: maxmemory-policy can't be read. Make sure that it is noeviction: otherwise, a full server "
            "deletes queued tasks or results without an error"
        )
    elif policy != "noeviction":
        what = f"maxmemory-policy is {policy}, so a full server deletes queued tasks or results without an error"
        found.problem(what, "Set it to noeviction, in the parameter group or settings of the provider")


def _commands(key: str, channel: str) -> Sequence[Sequence[str]]:
    """Return commands of Celery and kombu. Together, they leave no key behind."""
    sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db"  # return 1
    return [
        ("LPUSH", f"{key}l", "1"),
        ("RPUSH", f"{key}l", "1"),
        ("LLEN", f"{key}l"),
        ("LRANGE", f"{key}l", "0", "1"),
        ("BRPOP", f"{key}l", "1"),
        ("RPOP", f"{key}l"),
        ("HSET", f"{key}h", "a", "1"),
        ("HGET", f"{key}h", "a"),
        ("HDEL", f"{key}h", "a"),
        ("SADD", f"{key}s", "a"),
        ("SMEMBERS", f"{key}s"),
        ("SISMEMBER", f"{key}s", "a"),
        ("SREM", f"{key}s", "a"),
        ("ZADD", f"{key}z", "1", "a"),
        ("ZRANGE", f"{key}z", "0", "1"),
        ("ZRANGEBYSCORE", f"{key}z", "0", "1"),
        ("ZREVRANGEBYSCORE", f"{key}z", "1", "0"),
        ("ZCOUNT", f"{key}z", "0", "1"),
        ("ZREM", f"{key}z", "a"),
        ("SETEX", f"{key}v", "60", "1"),
        ("SET", f"{key}v", "1", "EX", "60"),
        ("GET", f"{key}v"),
        ("MGET", f"{key}v"),
        ("INCRBY", f"{key}v", "1"),
        ("EXPIRE", f"{key}v", "60"),
        ("PEXPIRE", f"{key}v", "60000"),
        ("EXISTS", f"{key}v"),
        ("DEL", f"{key}v"),
        ("TIME",),
        ("SCRIPT", "LOAD", "return 1"),
        ("SCRIPT", "EXISTS", sha),
        ("EVALSHA", sha, "0"),
        ("WATCH", f"{key}v"),
        ("UNWATCH",),
        ("MULTI",),
        ("EXEC",),
        ("PUBLISH", channel, "check"),
        ("SUBSCRIBE", channel),
        ("UNSUBSCRIBE", channel),
        ("PSUBSCRIBE", f"{channel}*"),
        ("PUNSUBSCRIBE", f"{channel}*"),
    ]


def _refused_commands(connection: RedisConnection, prefix: str, database: int) -> Iterator[str]:
    """Yield what the server answers to the commands that it refuses."""
    mark = secrets.token_hex(4)
    for words in _commands(f"{prefix}check-{mark}-", f"{prefix}/{database}.check-{mark}"):
        try:
            connection.execute(*words)
        except RedisError as error:
            yield f"{words[0]}: {error}"
