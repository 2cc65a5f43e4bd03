"""Write the ledger, driven by Celery's signals."""

from __future__ import annotations

import json
import os
import pwd
import re
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STATE_DIR = Path("/var/lib/shop")
FILE_MODE = 0o640

# On quorum queues a message with a countdown travels under its delay, in 28 binary digits, before its own key
# (kombu.transport.native_delayed_delivery).
DELAY_PREFIX = re.compile(r"^(?:[01]\.){28}")

_worker = ""


def directory() -> Path:
    """Return where this host's ledger lies: $SHOP_LEDGER_DIR or, on a fleet's host, its state directory."""
    chosen = os.environ.get("SHOP_LEDGER_DIR")
    if chosen:
        return Path(chosen)
    if os.access(STATE_DIR, os.W_OK):
        return STATE_DIR / "ledger"
    return Path(tempfile.gettempdir()) / f"shop-ledger-{_user()}"


def record(event: str, task_id: str, **fields: Any) -> None:
    """Append one line.

    Args:
        event: 'sent', 'started', 'done', 'failed', 'retried' or 'revoked'.
        task_id: the task's id.
        fields: root, task, queue, worker and retries, as far as they are known.

    Raises:
        OSError: the ledger can't be written.
    """
    now = datetime.now(UTC)
    host = socket.gethostname()
    user = _user()
    entry = {
        "time": now.isoformat(),
        "event": event,
        "id": task_id,
        **fields,
        "host": host,
        "user": user,
        "pid": os.getpid(),
        "release": os.environ.get("CELERY_APP_RELEASE", ""),
    }
    # A file a user: one that root made by mistake would keep the workers from writing.
    path = directory() / f"{host}.{user}.{now:%Y-%m-%d}.jsonl"
    _append(path, (json.dumps(entry) + "\n").encode())


def _append(path: Path, line: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
    try:
        file = os.open(path, flags, FILE_MODE)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, flags, FILE_MODE)
    try:
        # With O_APPEND the kernel finds the end and writes in one step, so lines of two processes never mix.
        os.write(file, line)
    finally:
        os.close(file)


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _queue(routing_key: object) -> str:
    return DELAY_PREFIX.sub("", str(routing_key or ""))


def _record_execution(event: str, task: Any, request: Any) -> None:
    delivery = request.delivery_info or {}
    record(
        event,
        request.id,
        root=request.root_id or request.id,
        task=task.name,
        queue=_queue(delivery.get("routing_key")),
        worker=request.hostname or _worker,
        retries=request.retries or 0,
    )


def _on_init(sender: object = None, **_: object) -> None:
    global _worker  # noqa: PLW0603 - a process has one node name, and its children inherit it
    _worker = str(sender)


def _on_publish(sender: object = None, headers: Any = None, routing_key: object = None, **_: object) -> None:
    record(
        "sent",
        headers["id"],
        root=headers.get("root_id") or headers["id"],
        task=str(sender),
        queue=_queue(routing_key),
        worker=_worker,
        retries=headers.get("retries") or 0,
    )


def _on_start(task: Any = None, **_: object) -> None:
    _record_execution("started", task, task.request)


def _on_success(sender: Any = None, **_: object) -> None:
    _record_execution("done", sender, sender.request)


def _on_failure(sender: Any = None, task_id: str = "", **_: object) -> None:
    if sender.request.id == task_id:
        _record_execution("failed", sender, sender.request)
    else:
        # At a hard time limit the worker's main process reports for the child it killed, without a request.
        record("failed", task_id, task=sender.name, worker=_worker)


def _on_retry(sender: Any = None, request: Any = None, **_: object) -> None:
    _record_execution("retried", sender, request)


def _on_revoked(sender: Any = None, request: Any = None, **_: object) -> None:
    _record_execution("revoked", sender, request)


def connect() -> None:
    """Write the ledger from now on, in this process and those it forks. Calling it twice does no harm."""
    # Imported here, so that counting needs no Celery.
    from celery import signals  # noqa: PLC0415

    handlers = {
        signals.celeryd_init: _on_init,
        signals.after_task_publish: _on_publish,
        signals.task_prerun: _on_start,
        signals.task_success: _on_success,
        signals.task_failure: _on_failure,
        signals.task_retry: _on_retry,
        signals.task_revoked: _on_revoked,
    }
    for signal, handler in handlers.items():
        signal.connect(handler, weak=False, dispatch_uid=f"shop.ledger.{handler.__name__}")
