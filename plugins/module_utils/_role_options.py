"""What is wrong with the options of a role that the types of its specification don't say, all at once.

Each function takes the options of one role without the role's prefix, and returns their problems. OPTION_CHECKS has
them by role.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.fleet.celery.plugins.module_utils._platforms import platform_of
from ansible_collections.fleet.celery.plugins.module_utils._reader import Problem
from ansible_collections.fleet.celery.plugins.module_utils._units import MIB

Options = Mapping[str, Any]

# The role's own directives, which redis_settings must not set again.
_REDIS_DIRECTIVES = frozenset(
    [
        "aclfile",
        "appendfsync",
        "appendonly",
        "bind",
        "daemonize",
        "databases",
        "dir",
        "disable-thp",
        "enable-debug-command",
        "include",
        "maxclients",
        "maxmemory",
        "maxmemory-policy",
        "pidfile",
        "port",
        "protected-mode",
        "rename-command",
        "requirepass",
        "save",
        "supervised",
        "tcp-backlog",
        "tls-auth-clients",
        "tls-ca-cert-file",
        "tls-cert-file",
        "tls-key-file",
        "tls-port",
        "tls-protocols",
        "unixsocket",
        "unixsocketperm",
        "user",
    ]
)
# As redis.conf has them: 1k is 1000 bytes, 1kb is 1024.
_REDIS_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30}
_REDIS_LEAST = 4 * MIB
# A path that YAML, nginx and systemd all read as it is.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9_.@+/-]+")


def redis_memory(value: object, total: int) -> int:
    """Return the bytes of a maxmemory.

    Args:
        value: a size as in redis.conf, or a share of the host's memory, such as 60%.
        total: bytes of the host's memory.

    Raises:
        ValueError: it is neither.
    """
    match = re.fullmatch(r"([0-9]+)(%|[kmg]?b?)", str(value).lower())
    if not match:
        raise ValueError(f"{value} is neither a size, such as 512mb, nor a share of the memory, such as 60%")
    number = int(match[1])
    return number * total // 100 if match[2] == "%" else number * _REDIS_UNITS[match[2]]


def redis(options: Options, facts: Mapping[str, Any]) -> list[Problem]:
    problems = []
    flavor = options["flavor"]
    system = platform_of(str(facts.get("distribution", "Debian")), int(facts.get("distribution_major_version", 0)))
    if flavor not in {"redis", "valkey"}:
        problems.append(Problem("redis_flavor", f"{flavor} is neither redis nor valkey", "Set it to one of them"))
    elif flavor == "valkey" and not system.valkey:
        what = f"{system.name} {system.release} has no Valkey"
        fix = "Set it to redis, or use a host whose system has a package of Valkey"
        problems.append(Problem("redis_flavor", what, fix))
    if options["maxmemory_policy"] != "noeviction":
        what = f"with {options['maxmemory_policy']} a full Redis would drop queued tasks"
        fix = "Set it to noeviction, which refuses new tasks instead"
        problems.append(Problem("redis_maxmemory_policy", what, fix))
    total = int(facts["memtotal_mb"]) * MIB
    fix = "Set it to a size of at least 4mb that the host has, or to a share"
    try:
        size = redis_memory(options["maxmemory"], total)
    except ValueError as error:
        problems.append(Problem("redis_maxmemory", str(error), fix))
    else:
        if size < _REDIS_LEAST:
            what = f"{options['maxmemory']} is {size} bytes, too small for any queue"
            problems.append(Problem("redis_maxmemory", what, "Add a unit, e.g. 512mb"))
        elif size > total:
            what = f"{options['maxmemory']} is {size} bytes, but the host has {total}"
            problems.append(Problem("redis_maxmemory", what, fix))
    if options["appendfsync"] not in {"everysec", "always", "no"}:
        what = f"{options['appendfsync']} is none of everysec, always and no"
        problems.append(Problem("redis_appendfsync", what, "Set it to everysec"))
    return [
        *problems,
        *_tls("redis", options),
        *_unreachable("redis", options),
        *_redis_applications(options),
        *_redis_settings(options["settings"]),
    ]


def _redis_applications(options: Options) -> Iterable[Problem]:
    others = options["other_applications"]
    own = {
        "user": options["application_user"],
        "key_prefix": options["key_prefix"],
        "queues": options["queues"],
        "fanout_exchanges": options["fanout_exchanges"],
        "database": options["broker_database"],
    }
    applications = [own, *others]
    highest = max(int(each.get("database", 0)) for each in applications)
    if highest >= int(options["databases"]):
        what = f"{options['databases']} is too low for the database {highest} of an application"
        yield Problem("redis_databases", what, f"Set it to {highest + 1}, because databases are numbered from 0")
    duties = ("administrator", "monitoring", "metrics", "reader", "producer", "flower", "replay")
    users = [each["user"] for each in applications] + [options[f"{duty}_user"] for duty in duties]
    users = [user for user in users if user]
    for user in sorted({user for user in users if users.count(user) > 1}):
        yield Problem("redis_*_user", f"{user} is the name of two users", "Rename one of them")
    prefixes = [each["key_prefix"] for each in applications]
    if others and ("" in prefixes or len(set(prefixes)) < len(prefixes)):
        what = "applications that share a Redis need a key prefix each, and redis_key_prefix is one"
        yield Problem("redis_other_applications", what, "Set another key_prefix for each")
    named = [("redis_key_prefix", prefix) for prefix in prefixes]
    if options["replay_user"]:
        named.append(("redis_replay_key_prefix", options["replay_key_prefix"]))
        if not options["replay_key_prefix"]:
            what = "must not be empty, because the replay cache's user would have access to all keys"
            yield Problem("redis_replay_key_prefix", what, "Set it to a prefix, e.g. shop:replay:")
    for where, prefix in named:
        if not re.fullmatch(r"([A-Za-z0-9:_.-]*[:_.-])?", str(prefix)):
            fix = "Use letters, digits and :_-. only, and end it with one of :_-."
            yield Problem(where, f"{prefix!r} is not valid", fix)
    names = list(users)
    for each in applications:
        names += [*each.get("queues", ["celery"]), *each.get("fanout_exchanges", [])]
    for name in map(str, names):
        if not name or re.search(r"\s", name):
            what = f"{name!r} can't be the name of a user, queue or exchange"
            yield Problem("redis_queues and users", what, "Use no spaces, because Redis' ACL file can't contain them")


def _redis_settings(settings: Mapping[str, Any]) -> Iterable[Problem]:
    for name, value in settings.items():
        if name.lower() in _REDIS_DIRECTIVES:
            fix = "Remove it, and use the role's option if there is one"
            yield Problem("redis_settings", f"{name.lower()} is set by the role", fix)
        for item in value if isinstance(value, list) else [value]:
            if "\n" in str(item):
                yield Problem("redis_settings", f"{item!r} contains a line break", "Set it to a single line")


def _host_file(where: str, value: object) -> Iterable[Problem]:
    if not _PLAIN_PATH.fullmatch(str(value)):
        what = f"{value!r} is not an absolute path of letters, digits and _.@+-"
        yield Problem(where, what, "Set it to a file on the host, e.g. /etc/celery-fleet/tls/ca.crt")


def _authority(name: str, options: Options, role: str) -> Iterable[Problem]:
    """Check the file of a certificate authority. Without one, there is no TLS."""
    if options[name]:
        yield from _host_file(f"{role}_{name}", options[name])


def _tls(role: str, options: Options) -> Iterable[Problem]:
    """Check the files with which a role serves TLS. Without any, it serves none."""
    files = options["tls"]
    if not files:
        return
    where = f"{role}_tls"
    missing = [name for name in ("ca", "certificate", "key", "group") if not files.get(name)]
    if missing:
        fix = "Set all of ca, certificate, key and group, or remove the option"
        yield Problem(where, f"{', '.join(missing)} must not be empty", fix)
    for name in ("ca", "certificate", "key"):
        if name not in missing:
            yield from _host_file(f"{where}.{name}", files[name])
    if "group" not in missing and not re.fullmatch(r"[a-z_][a-z0-9_-]*", str(files["group"])):
        what = f"{files['group']!r} is not the name of a group"
        yield Problem(f"{where}.group", what, "Set it to one, e.g. celery-fleet-tls")


def _unreachable(role: str, options: Options) -> Iterable[Problem]:
    if not int(options["port"]) and not options["tls"]:
        yield Problem(f"{role}_port", "is 0, so nobody could connect", f"Set it to a port, or set {role}_tls")


def rabbitmq(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    return [*_tls("rabbitmq", options), *_unreachable("rabbitmq", options)]


def node_exporter(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    return list(_tls("node_exporter", options))


def redis_exporter(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    return [*_tls("redis_exporter", options), *_authority("redis_ca", options, "redis_exporter")]


def prometheus(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    problems = [*_tls("prometheus", options), *_authority("alertmanager_ca", options, "prometheus")]
    for index, job in enumerate(options["scrape_configs"]):
        if not job.get("ca_file"):
            continue
        where = f"prometheus_scrape_configs[{index}].ca_file"
        problems += _host_file(where, job["ca_file"])
        if "prober" in job:
            what = "a job with a prober scrapes the blackbox exporter, which has no TLS"
            problems.append(Problem(where, what, "Remove it"))
    return problems


def _web_page(role: str, options: Options) -> Iterable[Problem]:
    """Check what the pages have in common: a login, a certificate and a limit of memory."""
    user, password = str(options["basic_auth_user"]), str(options["basic_auth_password"])
    if not user or ":" in user:
        yield Problem(f"{role}_basic_auth_user", f"{user!r} is empty or has a colon", "Set it to a name, e.g. admin")
    if not password:
        yield Problem(f"{role}_basic_auth_password", "must not be empty", "Remove it, or set it to a password")
    if not re.fullmatch(r"[ -~]*", user + password):
        what = "only printable ASCII works in every browser"
        yield Problem(f"{role}_basic_auth_user, {role}_basic_auth_password", what, "Replace the other characters")
    if bool(options["tls_certificate"]) != bool(options["tls_key"]):
        yield Problem(f"{role}_tls_certificate, {role}_tls_key", "only one of them is set", "Set both or none")
    if not re.fullmatch(r"[0-9]+[KMGT]i?B?", str(options["memory_max"])):
        yield Problem(f"{role}_memory_max", f"{options['memory_max']} needs a unit", "Set it to a size, e.g. 512MB")


def flower(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    problems = list(_web_page("flower", options))
    if not re.match(r"$|https?://[^/]+/", options["broker_api"]):
        what = "is not the URL of a management API"
        problems.append(Problem("flower_broker_api", what, "Set it to one, e.g. http://10.0.0.11:15672/api/"))
    problems += _authority("broker_api_ca", options, "flower")
    if options["broker_api_ca"] and options["broker_api"].startswith("http:"):
        what = "has no effect, because the URL in flower_broker_api is not https"
        problems.append(Problem("flower_broker_api_ca", what, "Remove it, or set the URL of the TLS port"))
    return problems


def redis_ui(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    problems = [*_web_page("redis_ui", options), *_authority("redis_ca", options, "redis_ui")]
    for name in ("redis_host", "redis_user", "redis_password"):
        if not options[name]:
            problems.append(Problem(f"redis_ui_{name}", "must not be empty", "Set it to that of Redis"))
    numbers = [int(each["db"]) for each in options["databases"]]
    fix = "Set it to the databases that the page shows, each once, e.g. [{name: tasks, db: 0}]"
    if not numbers:
        problems.append(Problem("redis_ui_databases", "must not be empty", fix))
    elif min(numbers) < 0:
        problems.append(Problem("redis_ui_databases", "has a number below zero", fix))
    if len(set(numbers)) < len(numbers):
        problems.append(Problem("redis_ui_databases", "has a database twice", fix))
    return problems


def alertmanager(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    problems = list(_tls("alertmanager", options))
    receivers = {name: options[f"{name}_receivers"] for name in ("page", "warn")}
    for name, all_ in receivers.items():
        for index, one in enumerate(all_):
            if not (one.get("email") or one.get("webhook")):
                where = f"alertmanager_{name}_receivers[{index}]"
                problems.append(Problem(where, "has no receiver", "Set email or webhook"))
    mails = any(one.get("email") for all_ in receivers.values() for one in all_)
    if mails and not (options["smtp_smarthost"] and options["smtp_from"]):
        what = "a receiver has an e-mail address, but no server or sender is set"
        fix = "Set both, e.g. mail.example.com:587 and celery@example.com"
        problems.append(Problem("alertmanager_smtp_smarthost, alertmanager_smtp_from", what, fix))
    return problems


def grafana_dashboards(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    rules = [
        ("datasource", r"[A-Za-z0-9_-]{1,40}", "is not valid", "Set it to at most 40 letters, digits, - and _"),
        (
            "prometheus_url",
            r"https?://[^/@]+(/.*)?",
            "is not a URL without user and password",
            "Set it to one, e.g. http://127.0.0.1:9090",
        ),
        ("scrape_interval", r"[1-9][0-9]*(ms|s|m)", "is not a duration", "Set it to one, e.g. 15s"),
    ]
    return [
        *_authority("prometheus_ca", options, "grafana_dashboards"),
        *(
            Problem(f"grafana_dashboards_{name}", what if "URL" in what else f"{options[name]!r} {what}", fix)
            for name, pattern, what, fix in rules
            if not re.fullmatch(pattern, str(options[name]))
        ),
    ]


def celery_task_log(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    problems = []

    def refuse(name: str, what: str, fix: str) -> None:
        problems.append(Problem(f"celery_task_log_{name}", what, fix))

    if not re.fullmatch(r"[1-9][0-9]*[KMGT]?", str(options["journal_size"])):
        refuse("journal_size", f"{options['journal_size']!r} is not a size", "Set it to one, e.g. 500M or 2G")
    for name, least in (("retention_days", 1), ("file_size", 65536), ("file_backups", 1)):
        if int(options[name]) < least:
            refuse(name, f"{options[name]} is too small", f"Set it to at least {least}")
    sink = options["sink"]
    if sink == "cloudwatch":
        if not options["cloudwatch_region"]:
            refuse("cloudwatch_region", "must not be empty with the sink cloudwatch", "Set it, e.g. to eu-central-1")
        if not re.fullmatch(r"[A-Za-z0-9_/.#-]{1,512}", str(options["cloudwatch_group"])):
            what = f"{options['cloudwatch_group']!r} is not the name of a log group"
            refuse("cloudwatch_group", what, "Set it to one, e.g. /celery/shop")
        keys = [str(options[f"cloudwatch_{name}"]) for name in ("access_key", "secret_key")]
        if options["cloudwatch_credentials"] == "keys" and not all(re.fullmatch(r"[!-~]+", key) for key in keys):
            fix = (
                "Set it and celery_task_log_cloudwatch_secret_key, or set celery_task_log_cloudwatch_credentials to "
                "instance if the host has a role or a credentials file"
            )
            refuse("cloudwatch_access_key", "the sink cloudwatch has no credentials", fix)
    elif options["cloudwatch_metrics"]:
        what = f"has no effect with the sink {sink!r}"
        refuse("cloudwatch_metrics", what, "Remove it, or set celery_task_log_sink to cloudwatch")
    if options["agents"] and sink != "file":
        what = f"agents read the file of the sink file, but celery_task_log_sink is {sink!r}"
        refuse("agents", what, "Set celery_task_log_sink to file")
    return problems


def broker_backup(options: Options, _facts: Mapping[str, Any]) -> list[Problem]:
    problems = []
    if int(options["keep"]) < 0:
        fix = "Set it to the number of backups to keep, e.g. 3, or to 0"
        problems.append(Problem("broker_backup_keep", f"{options['keep']} is below 0", fix))
    for name in ("directory", "textfile_dir"):
        if not _PLAIN_PATH.fullmatch(str(options[name])):
            what, fix = f"{options[name]!r} is not a path of letters, digits and _.@+/-", "Choose another directory"
            problems.append(Problem(f"broker_backup_{name}", what, fix))
    if options["flavor"] != "rabbitmq" and int(options["keep"]) > 0 and not (options["user"] and options["password"]):
        what = f"is empty, but {options['flavor']} gives a snapshot only to a user with a password"
        problems.append(Problem("broker_backup_user", what, "Set it and broker_backup_password"))
    return problems


#: The checks of a role's options, given them and the host's facts.
OPTION_CHECKS: Mapping[str, Callable[[Options, Mapping[str, Any]], list[Problem]]] = {
    check.__name__: check
    for check in (
        alertmanager,
        broker_backup,
        celery_task_log,
        flower,
        grafana_dashboards,
        node_exporter,
        prometheus,
        rabbitmq,
        redis,
        redis_exporter,
        redis_ui,
    )
}
