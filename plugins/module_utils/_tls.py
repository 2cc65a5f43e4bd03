"""TLS in the plan: whether the broker's ports are encrypted, the files on each host, and the settings of clients.

Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._reader import Variables, closest

MODES = ("off", "both", "only")


@dataclass(frozen=True)
class TlsFiles:
    """The files of TLS on a host.

    Attributes:
        ca: certificates of the authorities that clients trust.
        certificate: the host's certificate, and those between it and the authority.
        key: its key.
        group: group that may read the key.
    """

    ca: str = "/etc/celery-fleet/tls/ca.crt"
    certificate: str = "/etc/celery-fleet/tls/host.crt"
    key: str = "/etc/celery-fleet/tls/host.key"
    group: str = "celery-fleet-tls"


def read_mode(reader: Variables, key: str, *, enabled: str = "") -> str:
    """Return a variable whose value is one of MODES; empty if it is not set.

    YAML reads off without quotes as false.

    Args:
        enabled: the mode that true stands for; empty: true is not valid.
    """
    value = reader.raw.get(key)
    if value is False:
        return "off"
    if value is True and enabled:
        return enabled
    mode = str(value or "")
    if mode and mode not in MODES:
        reader.problem(
            key, f"{value!r} is not a valid value{closest(mode, MODES)}", f"Set it to one of {', '.join(MODES)}"
        )
        return ""
    return mode


def mode_of(declared: str, hosts: Iterable[str]) -> str:
    """Return what the broker's ports are: encrypted unless the fleet is one host, or celery_tls decides."""
    return declared or ("only" if len(set(hosts)) > 1 else "off")


def certificate_fix(text: str) -> str:
    """Return what to do about an error or a log in which a client refuses a certificate; empty if none does."""
    if "certificate verify failed" in text.lower().replace("_", " "):
        return (
            "Clients refuse the broker's certificate. Run playbooks/renew.yml. If it is the user's own, check its "
            "names, its chain and its dates: openssl x509 -noout -text -in /etc/celery-fleet/tls/host.crt"
        )
    return ""


def client_settings(kind: str, ca: str) -> dict[str, Any]:
    """Return Celery's settings for clients of a broker with TLS, which verify its certificate and name.

    With other forms, kombu 5.7 verifies no name, or nothing: an address rediss:// alone, True, or a mapping without
    server_hostname. None as server_hostname is the host of the broker's URL.
    """
    if kind == "redis":
        # Before 6.0, redis-py verifies no name by default.
        options = {"ssl_cert_reqs": "required", "ssl_ca_certs": ca, "ssl_check_hostname": True}
        return {"broker_use_ssl": options, "redis_backend_use_ssl": options}
    # 2 is ssl.CERT_REQUIRED.
    return {"broker_use_ssl": {"ca_certs": ca, "cert_reqs": 2, "server_hostname": None}}
