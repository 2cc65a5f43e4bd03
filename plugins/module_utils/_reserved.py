"""Reserved names: of the system, of a broker and of Celery."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem

# Users of Debian and of common packages, and directories below /etc, /var/lib and /var/log.
_SYSTEM = """
    adm admin alternatives apparmor apt audit backup bin bluetooth boot ca-certificates cache chrony cloud colord cron
    daemon dbus debconf debian default dhcp docker dpkg emacs epmd ftp games git gnats grafana group grub haproxy
    initramfs-tools init irc iptables journal kernel ldap libvirt lightdm list locale log logrotate lp lxd mail
    man messagebus misc mlocate mongodb munin mysql nagios network news nfs nginx nobody ntp open-vm-tools operator
    pam perl podman polkit postfix postgres postgresql private prometheus proxy puppet python python3 qemu rabbitmq
    redis root rpc rsyslog samba saned security selinux shadow skel snmp squid ssh sshd ssl staff sudo sudoers
    supervisor sync sys sysctl syslog systemd tcpdump ubuntu ucf ufw update-manager usbmux users uucp uuidd vagrant
    valkey vim www-data xdg zabbix
"""
_SYSTEM_PREFIXES = ("systemd-", "debian-", "prometheus-", "rabbitmq-", "redis-", "_")
# Source: kombu.pidbox, celery.events, kombu.transport.native_delayed_delivery, kombu.transport.redis,
# celery.backends.base, and https://www.rabbitmq.com/docs/queues#names
_OF_CELERY = {
    r"(.*\.)?celery\.pidbox": "remote control",
    r"celeryev([./].*)?": "events",
}
_OF_BROKERS: Mapping[str, Mapping[str, str]] = {
    "rabbitmq": {r"amq\..*": "RabbitMQ itself", r"celery_delayed_.*": "delayed tasks"},
    "redis": {
        r"unacked.*": "unacknowledged messages",
        r"_kombu.*": "bindings",
        r"celery-task(set)?-meta-.*": "results",
        r".*\x06\x16.*": "priorities",
    },
}
_LONGEST_QUEUE = 255


def check_app_name(app: str, logins: Iterable[str], problems: list[Problem]) -> None:
    """Refuse the name of an application that the system uses for another user or directory.

    Args:
        logins: the users that Ansible logs in as.
    """
    what = ""
    if app in logins:
        what = f"{app!r} is the user that Ansible logs in as, whose home and shell would be changed"
    elif app in _SYSTEM.split() or app.startswith(_SYSTEM_PREFIXES):
        what = f"{app!r} is a user of the system, or a directory below /etc, /var/lib or /var/log"
    if what:
        problems.append(Problem("celery_app_name", what, f"Choose another name, e.g. {app}-tasks"))


def check_queue_names(names: Iterable[str], kind: str, dead: str, problems: list[Problem]) -> None:
    """Refuse names of queues that the broker, Celery or the fleet uses, or that RabbitMQ would confuse.

    Args:
        kind: the broker's kind.
        dead: the dead-letter queue; empty if there is none.
    """
    names = list(names)
    for name in names:
        where = f"celery_queues[{name}]"
        taken = {**_OF_CELERY, **_OF_BROKERS[kind], **({re.escape(dead): "dead letters"} if dead else {})}
        for pattern, purpose in taken.items():
            if re.fullmatch(pattern, name):
                problems.append(Problem(where, f"the name is reserved for {purpose}", "Choose another name"))
        if len(name.encode()) > _LONGEST_QUEUE:
            problems.append(Problem(where, f"the name has more than {_LONGEST_QUEUE} bytes", "Choose a shorter name"))
        if kind != "rabbitmq":
            continue
        for other in names:
            # Delayed tasks are routed by a binding to all keys that end with a dot and the queue's name.
            if name.endswith(f".{other}"):
                what = f"delayed tasks would run twice, because the name ends with .{other}, which is a queue too"
                problems.append(Problem(where, what, f"Rename it to {name.replace('.', '-')}"))
