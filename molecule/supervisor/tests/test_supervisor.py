"""Supervisor is closed to others and ends its programs warm, all at the same time."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from shared.deployed import wait_until
from shared.service import assert_sandboxed

# See capability.h.
CAP_NET_RAW = 1 << 13
CAP_SYS_ADMIN = 1 << 21
# Each takes a while to end after TERM, as a worker does whose task still runs.
PROGRAM = """[program:slow-{number}]
command=/bin/bash -c "trap 'sleep 4; date +%%s >>ended; exit' TERM; touch up-{number}; while sleep .1; do :; done"
stopwaitsecs=60
directory=/root
"""


@pytest.fixture
def busy(host: Any) -> Iterator[Any]:
    """Three programs that take four seconds to end."""
    host.check_output("rm -f /root/ended /root/up-*")
    for number in range(3):
        host.check_output("echo %s > %s", PROGRAM.format(number=number), f"/etc/supervisor/conf.d/slow-{number}.conf")
    host.check_output("supervisorctl update")
    wait_until(lambda: host.run("ls /root/up-0 /root/up-1 /root/up-2").rc == 0, "the programs don't run")
    yield host
    host.check_output("systemctl start supervisor")
    host.check_output("rm -f /etc/supervisor/conf.d/slow-*.conf")
    wait_until(lambda: host.run("supervisorctl update").rc == 0, "Supervisor does not come back")


def test_a_stop_of_the_service_waits_for_all_programs_at_once(busy: Any) -> None:
    busy.check_output("systemctl stop supervisor")
    ended = [int(line) for line in busy.check_output("cat /root/ended").split()]
    assert len(ended) == 3, "a program was killed before it had ended"
    assert max(ended) - min(ended) < 4, "they ended one after another"
    assert not busy.check_output("pgrep -f '[t]ouch up-' || true"), "a program outlived the service"


def test_what_a_killed_supervisord_leaves_ends_warm_and_runs_once(busy: Any) -> None:
    before = busy.check_output("cat /run/supervisord.pid")
    busy.check_output("rm /root/up-*; kill -KILL %s", before.strip())
    wait_until(lambda: busy.run("ls /root/up-0 /root/up-1 /root/up-2").rc == 0, "the programs don't run again")
    assert len(busy.check_output("cat /root/ended").split()) == 3, "a program was killed before it had ended"
    assert len(busy.check_output("pgrep -f '[t]ouch up-'").split()) == 3, "a program runs twice"
    assert busy.check_output("cat /run/supervisord.pid") != before


def test_a_restart_of_the_host_waits_too(busy: Any) -> None:
    assert busy.check_output("systemctl show -p TimeoutStopUSec --value supervisor") == "2min"
    after = busy.check_output("systemctl show -p After --value supervisor")
    assert "network-online.target" in after


def test_nobody_else_reaches_its_socket(host: Any) -> None:
    socket = host.file("/run/supervisor.sock")
    assert (socket.user, socket.group, socket.mode) == ("root", "root", 0o700)
    assert host.run("runuser -u nobody -- supervisorctl status").rc != 0
    assert host.run("runuser -u nobody -- supervisorctl shutdown").rc != 0
    assert host.service("supervisor").is_running


def test_a_program_gains_no_privileges(busy: Any) -> None:
    assert_sandboxed(busy, "supervisor")
    status = busy.check_output("cat /proc/$(supervisorctl pid slow-0)/status").splitlines()
    found = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    assert not int(found["CapBnd"], 16) & (CAP_NET_RAW | CAP_SYS_ADMIN)


def test_nothing_listens(host: Any) -> None:
    assert "supervisor" not in host.check_output("ss -tulpnH")


def test_it_starts_with_the_host_and_rotates_its_log(host: Any) -> None:
    assert host.service("supervisor").is_enabled
    text = host.file("/etc/supervisor/supervisord.conf").content_string
    assert "logfile_maxbytes=50MB" in text
    assert "logfile_backups=5" in text


def test_a_configuration_that_supervisor_refuses_does_not_replace_the_old_one(host: Any) -> None:
    name = host.backend.get_hostname()
    before = host.file("/etc/supervisor/supervisord.conf").content_string
    pid = host.check_output("cat /run/supervisord.pid")
    converge = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"]) / "converge.yml"
    run = subprocess.run(
        ["ansible-playbook", str(converge), "--limit", name, "-e", "supervisor_log_maxbytes=lots"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "logfile_maxbytes" in run.stdout
    assert host.file("/etc/supervisor/supervisord.conf").content_string == before
    assert host.check_output("cat /run/supervisord.pid") == pid
