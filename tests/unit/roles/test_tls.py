"""TLS of the exporters, Prometheus and Alertmanager, and of what Prometheus connects to."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from role import Role

DIRECTORY = "/etc/celery-fleet/tls"
FILES = {
    "ca": f"{DIRECTORY}/ca.crt",
    "certificate": f"{DIRECTORY}/host.crt",
    "key": f"{DIRECTORY}/host.key",
    "group": "celery-fleet-tls",
}
SERVERS = ["node_exporter", "prometheus", "alertmanager", "redis_exporter", "rabbitmq"]
PASSWORDS = {
    "node_exporter_password": "secret",
    "prometheus_password": "secret",
    "alertmanager_password": "secret",
    "redis_exporter_user": "shop-metrics",
    "redis_exporter_password": "secret",
    "inventory_hostname": "debian12",
}


def role(name: str) -> Role:
    return Role(name, **PASSWORDS)


def web_config(name: str, **given: Any) -> dict[str, Any]:
    """Return the web configuration of an exporter."""
    found: dict[str, Any] = yaml.safe_load(role(name).render_with_filters("web.yml.j2", **given))
    return found


@pytest.mark.parametrize("name", ["node_exporter", "prometheus", "alertmanager"])
def test_a_page_is_served_by_tls_with_its_password(name: str) -> None:
    assert set(web_config(name)) == {"basic_auth_users"}
    found = web_config(name, **{f"{name}_tls": FILES})
    assert found["tls_server_config"] == {
        "cert_file": FILES["certificate"],
        "key_file": FILES["key"],
        "min_version": "TLS12",
    }
    assert "prometheus" in found["basic_auth_users"]
    line = "SupplementaryGroups=celery-fleet-tls"
    assert line not in role(name).render("service.conf.j2")
    text = role(name).render("service.conf.j2", **{f"{name}_tls": FILES})
    # In the section of the service, which is the last one.
    assert text.rindex(line) > text.rindex("[Service]") == text.rindex("\n[") + 1


def test_prometheus_can_have_another_group() -> None:
    assert "PrivateUsers" not in role("prometheus").render("service.conf.j2")
    assert "\nPrivateUsers=no\n" in role("prometheus").render("service.conf.j2", prometheus_tls=FILES)


def scrape_jobs(*jobs: dict[str, Any], **given: Any) -> dict[str, Any]:
    text = role("prometheus").render("prometheus.yml.j2", prometheus_scrape_configs=list(jobs), **given)
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_a_job_with_an_authority_scrapes_by_https_alone() -> None:
    plain = {"job_name": "plain", "targets": {"vm1": "10.0.0.1:9100"}}
    empty, secure = plain | {"ca_file": ""}, plain | {"ca_file": FILES["ca"]}
    jobs = scrape_jobs(plain, empty, secure)["scrape_configs"]
    assert jobs[0] == jobs[1]
    assert jobs[2] == jobs[0] | {"scheme": "https", "tls_config": {"ca_file": FILES["ca"]}}


def test_alerts_are_sent_by_https() -> None:
    given = {"prometheus_alertmanagers": ["10.0.0.1:9093"], "prometheus_alertmanager_password": "secret"}
    (plain,) = scrape_jobs(**given)["alerting"]["alertmanagers"]
    (secure,) = scrape_jobs(prometheus_alertmanager_ca=FILES["ca"], **given)["alerting"]["alertmanagers"]
    assert secure == plain | {"scheme": "https", "tls_config": {"ca_file": FILES["ca"]}}


@pytest.mark.parametrize("name", SERVERS)
def test_the_files_of_a_host_are_accepted(name: str) -> None:
    assert role(name).problems() == []
    assert role(name).problems(**{f"{name}_tls": FILES}) == []


@pytest.mark.parametrize("name", SERVERS)
@pytest.mark.parametrize(
    ("files", "problem"),
    [
        ({"ca": FILES["ca"]}, "_tls: certificate, key, group must not be empty"),
        (FILES | {"key": None}, "_tls: key must not be empty"),
        (FILES | {"key": "host.key"}, "_tls.key: 'host.key' is not an absolute path"),
        (FILES | {"certificate": "/a b;c"}, "_tls.certificate: '/a b;c' is not an absolute path"),
        (FILES | {"group": "a b"}, "_tls.group: 'a b' is not the name of a group"),
    ],
)
def test_files_that_cant_work_are_refused(name: str, files: dict[str, Any], problem: str) -> None:
    (found,) = role(name).problems(**{f"{name}_tls": files})
    assert found.startswith(f"{name}{problem}")


JOB = {"job_name": "a", "targets": {}, "ca_file": FILES["ca"]}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"prometheus_alertmanager_ca": "ca.crt"}, "prometheus_alertmanager_ca: 'ca.crt' is not"),
        (
            {"prometheus_scrape_configs": [{"job_name": "b", "targets": {}}, JOB | {"ca_file": "ca.crt"}]},
            "prometheus_scrape_configs[1].ca_file: 'ca.crt' is not",
        ),
        (
            {"prometheus_scrape_configs": [JOB | {"prober": "127.0.0.1:9115"}]},
            "prometheus_scrape_configs[0].ca_file: a job with a prober",
        ),
    ],
)
def test_authorities_that_cant_work_are_refused(variables: dict[str, Any], problem: str) -> None:
    (found,) = role("prometheus").problems(**variables)
    assert found.startswith(problem)


def test_an_authority_is_accepted() -> None:
    given = {"prometheus_scrape_configs": [JOB], "prometheus_alertmanager_ca": FILES["ca"]}
    assert role("prometheus").problems(**given) == []


@pytest.mark.parametrize("name", ["redis", "rabbitmq"])
@pytest.mark.parametrize("given", [{}, {"tls": FILES}])
def test_a_broker_can_read_the_key_before_it_has_tls(name: str, given: dict[str, Any]) -> None:
    """A running process can't join a group, so without it the first listener with TLS would need a restart."""
    unit = "service.conf.j2" if name == "redis" else "rabbitmq-server.service.conf.j2"
    text = role(name).render(unit, **{f"{name}_{key}": value for key, value in given.items()})
    assert "\nSupplementaryGroups=celery-fleet-tls\n" in text


@pytest.mark.parametrize(("name", "config"), [("redis", "redis.conf.j2"), ("rabbitmq", "rabbitmq.conf.j2")])
def test_tls_changes_only_the_listeners(name: str, config: str) -> None:
    given = {"__redis_maxmemory": 1 << 30, "redis_flavor": "redis"}
    plain: dict[str, Any] = {}
    secure = {f"{name}_tls": FILES, f"{name}_port": 0}
    assert role(name).render(config, **given) == role(name).render(config, **given, **secure)
    listeners = [role(name).render("listeners.conf.j2", **variables) for variables in (plain, secure)]
    assert FILES["key"] in listeners[1]
    assert FILES["key"] not in listeners[0]


def test_redis_gets_its_listeners_as_its_file_has_them() -> None:
    assert role("redis").value("__redis_listener_settings") == {"port": 6379, "tls-port": 0}
    settings = role("redis").value("__redis_listener_settings", redis_tls=FILES, redis_port=0)
    assert settings == {
        "port": 0,
        "tls-port": 6380,
        "tls-ca-cert-file": FILES["ca"],
        "tls-cert-file": FILES["certificate"],
        "tls-key-file": FILES["key"],
        "tls-protocols": "TLSv1.2 TLSv1.3",
        "tls-auth-clients": "no",
    }
    text = role("redis").render("listeners.conf.j2", redis_tls=FILES, redis_port=0)
    assert 'port "0"' in text
    assert 'tls-protocols "TLSv1.2 TLSv1.3"' in text


def test_certificates_are_verified_with_an_authority() -> None:
    modules = [
        yaml.safe_load(role("blackbox_exporter").render_with_filters("blackbox.yml.j2", **given))["modules"]
        for given in ({}, {"blackbox_exporter_ca": FILES["ca"]})
    ]
    assert list(modules[0]) == ["certificate"]
    assert modules[1]["certificate"] == modules[0]["certificate"]
    assert modules[1]["verified_certificate"]["tcp"]["tls_config"] == {"ca_file": FILES["ca"]}
