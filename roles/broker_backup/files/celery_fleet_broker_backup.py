#!/usr/bin/python3 -I
"""Back up the broker of this host, or restore a backup of it.

usage: celery-fleet-broker-backup backup
       celery-fleet-broker-backup restore FILE

A backup of RabbitMQ has its definitions, but no message. One of Redis or Valkey is a snapshot of all keys, which
replaces all that the server holds when it is restored.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CONFIG = Path("/etc/celery-fleet/broker-backup/config.json")
#: Servers of this family; the other broker is RabbitMQ.
REDIS = ("redis", "valkey")
#: An append-only file of Redis 7 and Valkey, of which a snapshot is the base.
MANIFEST = "file appendonly.aof.1.base.rdb seq 1 type b\n"


class BackupError(Exception):
    """A backup can't be made or restored."""


def main(arguments: list[str]) -> int:
    """Run a command and return the exit code."""
    os.umask(0o077)
    try:
        match arguments:
            case ["backup"]:
                print(backup(json.loads(CONFIG.read_text(encoding="utf-8"))))
            case ["restore", name]:
                restore(json.loads(CONFIG.read_text(encoding="utf-8")), Path(name))
            case ["place-snapshot", directory]:
                place(Path(directory), sys.stdin.buffer)
            case _:
                print((__doc__ or "").strip(), file=sys.stderr)
                return 2
    except BackupError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def backup(config: Mapping[str, Any]) -> Path:
    """Make a backup, remove the oldest ones and return the new one's path."""
    flavor, directory = config["flavor"], Path(config["directory"])
    suffix = "rdb" if flavor in REDIS else "json"
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = directory / f"{flavor}-{moment}.{suffix}"
    # One that was not finished, of a host that lost power.
    partial = directory / f"unfinished.{suffix}"
    if flavor in REDIS:
        check_space(config, directory)
    try:
        dump(config, partial)
        check(flavor, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    for old in sorted(directory.glob(f"{flavor}-*.{suffix}"))[: -config["keep"]]:
        old.unlink()
    report(Path(config["textfile_dir"]), target)
    return target


def dump(config: Mapping[str, Any], target: Path) -> None:
    """Write what the broker holds."""
    if config["flavor"] in REDIS:
        # Not to its standard output, where the end of the transfer has a mark.
        run(redis_cli(config, "--rdb", str(target)), environment(config))
    else:
        target.write_text(without_shovels(run(rabbitmqctl("export_definitions", "-")).decode()), encoding="utf-8")


def without_shovels(definitions: str) -> str:
    """Return definitions without the shovels of a move, which have a password and a broker that may be gone.

    Without its plugin, RabbitMQ would refuse to restore them.
    """
    try:
        held = json.loads(definitions)
    except ValueError as error:
        raise BackupError(f"RabbitMQ exports no definitions: {error}") from error
    parameters = held.get("parameters", [])
    shovels = [
        each for each in parameters if each["component"] == "shovel" and each["name"].startswith("celery-fleet.")
    ]
    return json.dumps({**held, "parameters": [each for each in parameters if each not in shovels]})


def check_space(config: Mapping[str, Any], directory: Path) -> None:
    """Refuse to fill the disk, on which the server writes, too."""
    info = run(redis_cli(config, "info", "memory"), environment(config)).decode()
    used = next(int(line.partition(":")[2]) for line in info.splitlines() if line.startswith("used_memory:"))
    free = shutil.disk_usage(directory).free
    if free < 2 * used:
        raise BackupError(f"{directory} has {free >> 20} MiB free, less than twice the server's {used >> 20} MiB")


def check(flavor: str, file: Path) -> None:
    """Refuse a file that is no complete backup."""
    if flavor in REDIS:
        run([f"/usr/bin/{flavor}-check-rdb", str(file)])
        return
    try:
        definitions = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BackupError(f"{file} has no definitions of RabbitMQ: {error}") from error
    if not isinstance(definitions, dict) or not {"vhosts", "users"} <= definitions.keys():
        raise BackupError(f"{file} has no definitions of RabbitMQ")


def report(directory: Path, target: Path) -> None:
    """Write the metrics of a backup for node_exporter."""
    name = "celery_broker_backup"
    text = (
        f"# HELP {name}_timestamp_seconds Time of the newest backup of the broker.\n"
        f"# TYPE {name}_timestamp_seconds gauge\n"
        f"{name}_timestamp_seconds {int(target.stat().st_mtime)}\n"
        f"# HELP {name}_size_bytes Size of the newest backup of the broker.\n"
        f"# TYPE {name}_size_bytes gauge\n"
        f"{name}_size_bytes {target.stat().st_size}\n"
    )
    partial = directory / "celery-broker-backup.prom.new"
    partial.write_text(text, encoding="utf-8")
    partial.chmod(0o644)
    partial.replace(directory / "celery-broker-backup.prom")


def restore(config: Mapping[str, Any], file: Path) -> None:
    """Restore a backup: definitions are added to those of RabbitMQ, a snapshot replaces all of Redis."""
    flavor = config["flavor"]
    check(flavor, file)
    if flavor not in REDIS:
        # RabbitMQ 4.0 does not see the end of its standard input.
        with copied_for("rabbitmq", file) as copy:
            run(rabbitmqctl("import_definitions", str(copy)))
        return
    with file.open("rb") as content, stopped(f"{flavor}-server"):
        # As the server's user, in whose directory root must not open a file.
        place_as_owner = ["/usr/bin/python3", "-I", str(Path(__file__).resolve())]
        run(
            ["runuser", "-u", flavor, "--", *place_as_owner, "place-snapshot", f"/var/lib/{flavor}"],
            stdin=content,
        )


@contextmanager
def copied_for(group: str, file: Path) -> Iterator[Path]:
    """Copy a file so that a group can read it and nobody else, until the end of the block."""
    with tempfile.TemporaryDirectory(dir="/run", prefix="celery-fleet-restore-") as name:
        directory = Path(name)
        copy = directory / file.name
        shutil.copyfile(file, copy)
        for path, mode in ((copy, 0o640), (directory, 0o750)):
            shutil.chown(path, "root", group)
            path.chmod(mode)
        yield copy


@contextmanager
def stopped(unit: str) -> Iterator[None]:
    """Stop a unit meanwhile, and start it whatever happens."""
    run(["systemctl", "stop", unit])
    try:
        yield
    finally:
        run(["systemctl", "start", unit])


def place(directory: Path, content: IO[bytes]) -> None:
    """Make a snapshot the server's append-only file. The earlier one stays beside it until the next time."""
    current, new, before = (directory / name for name in ("appendonlydir", "appendonlydir.new", "appendonlydir.before"))
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o750)
    with (new / "appendonly.aof.1.base.rdb").open("wb") as file:
        shutil.copyfileobj(content, file)
        file.flush()
        os.fsync(file.fileno())
    (new / "appendonly.aof.manifest").write_text(MANIFEST, encoding="utf-8")
    if current.exists():
        shutil.rmtree(before, ignore_errors=True)
        current.rename(before)
    new.rename(current)


def redis_cli(config: Mapping[str, Any], *arguments: str) -> list[str]:
    flavor = config["flavor"]
    # -e: exit with an error if the server returns one.
    login = ["-e", "-s", f"/run/{flavor}/{flavor}.sock", "--user", config["user"], "--no-auth-warning"]
    return [f"/usr/bin/{flavor}-cli", *login, *arguments]


def environment(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment with the password, which must not be in the process list."""
    return {**os.environ, "REDISCLI_AUTH": config["password"]}


def rabbitmqctl(*arguments: str) -> list[str]:
    # Not Debian's wrapper, which passes its arguments to a shell. Root must not read its user's .erlang.
    home = ["runuser", "-u", "rabbitmq", "--", "/usr/bin/env", "HOME=/var/lib/rabbitmq"]
    return [*home, "/usr/lib/rabbitmq/bin/rabbitmqctl", "--silent", *arguments]


def run(
    command: list[str],
    env: Mapping[str, str] | None = None,
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
) -> bytes:
    """Run a command and return its output. Its failure is an error with what it said."""
    done = subprocess.run(command, env=env, stdin=stdin, capture_output=True, cwd="/", check=False)
    if done.returncode:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise BackupError(f"{Path(command[0]).name} failed: {said[-2000:]}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
