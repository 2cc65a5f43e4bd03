"""The plan's values, and errors from the inventory and the hosts."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.filter.fleet import FilterModule
from ansible_collections.fleet.celery.plugins.module_utils._brokers import BROKERS
from ansible_collections.fleet.celery.plugins.module_utils._facts import host_facts
from ansible_collections.fleet.celery.plugins.module_utils._plan import Plan, make_plan
from ansible_collections.fleet.celery.plugins.module_utils._table import plan_tables
from fleet import FACTS, GROUPS, MIB, declaration, with_queue, with_worker
from hypothesis import given
from hypothesis import strategies as st


def plan(raw: dict[str, Any], **facts: Any) -> Plan:
    return make_plan(raw, GROUPS, {**FACTS, **facts})


def program(raw: dict[str, Any], name: str = "shop-video", host: str = "worker1") -> dict[str, Any]:
    made = plan(raw)
    assert made.problems == ()
    (found,) = [item for item in made.values["hosts"][host]["programs"] if item["name"] == name]
    return dict(found)


def test_a_worker_runs_on_each_host_of_its_group_and_nowhere_else() -> None:
    hosts = plan(declaration()).values["hosts"]
    assert {name: [item["worker"] for item in host["programs"]] for name, host in hosts.items()} == {
        "broker1": [],
        "worker1": ["customers", "video"],
        "worker2": ["customers", "video"],
        "control1": [],
    }
    assert hosts["control1"]["duties"] == ["app", "beat", "flower"]
    assert hosts["broker1"]["duties"] == ["rabbitmq"]


def test_the_command_has_the_declared_options() -> None:
    argv = program(
        with_worker(
            concurrency=None,
            autoscale={"min": 2, "max": 3},
            max_memory_per_child="200MB",
            max_tasks_per_child=7,
            prefetch_multiplier=2,
            log_level="DEBUG",
            time_limit=1300,
            extra_args=["--x", "a b"],
        )
    )["argv"]
    assert argv[0] == "worker"
    assert {
        "--queues=video", "--pool=prefork", "--autoscale=3,2", "--max-memory-per-child=204800",
        "--max-tasks-per-child=7", "--prefetch-multiplier=2", "--loglevel=DEBUG", "--time-limit=1300",
        "--soft-time-limit=1080", "-Ofair",
    } <= set(argv)  # fmt: skip
    assert list(argv[-2:]) == ["--x", "a b"]
    assert not any(argument.startswith("--concurrency") for argument in argv)


@pytest.mark.parametrize(
    ("queue", "worker", "multiplier"),
    [
        ({"duration": "5ms"}, {}, 64),
        ({"duration": 0.02}, {}, 25),
        ({"duration": "2s"}, {}, 1),
        ({"duration": "5ms"}, {"pool": "gevent"}, 64),
        ({"duration": "2 s"}, {"pool": "gevent"}, 4),
        # As many as may be held if each takes as long as it may.
        ({"duration": "5ms", "time_limit": 300}, {}, 6),
        ({"duration": "5ms"}, {"time_limit": 300}, 6),
        ({"duration": "5ms"}, {"prefetch_multiplier": 3}, 3),
        # Nothing is known of the other queue.
        ({"duration": "5ms"}, {"queues": ["video", "customers"]}, 1),
    ],
)
def test_a_worker_reserves_as_many_tasks_as_their_duration_allows(
    queue: dict[str, Any], worker: dict[str, Any], multiplier: int
) -> None:
    raw = with_worker(concurrency=None, **worker)
    del raw["queues"][1]["time_limit"]
    raw["queues"][1] |= queue
    assert f"--prefetch-multiplier={multiplier}" in program(raw)["argv"]
    made = plan(raw)
    assert made.values["broker"]["consumer_timeout"] >= 1000 * multiplier * program(raw)["longest_task"]


@pytest.mark.parametrize(("duration", "limit"), [("5ms", 30), (1.5, 150), ("10s", 300), ("299s", 300)])
def test_the_time_limit_follows_from_the_duration(duration: object, limit: int) -> None:
    raw = declaration()
    del raw["queues"][1]["time_limit"]
    raw["queues"][1]["duration"] = duration
    assert program(raw)["longest_task"] == limit


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent", "eventlet", "solo"])
def test_no_green_worker_sends_events(pool: str) -> None:
    argv = program(with_worker(pool=pool, concurrency=None))["argv"]
    green = pool in ("gevent", "eventlet")
    assert ("--task-events" in argv, "--without-heartbeat" in argv) == (not green, green)
    off = {**with_worker(pool=pool, concurrency=None), "settings": {"worker_send_task_events": False}}
    assert "--task-events" not in program(off)["argv"]


@pytest.mark.parametrize("pool", ["threads", "gevent", "eventlet", "solo"])
def test_no_option_is_passed_that_the_pool_would_ignore(pool: str) -> None:
    argv = program(with_worker(pool=pool, concurrency=None))["argv"]
    refused = ["--soft-time-limit", "--max-memory-per-child", "--max-tasks-per-child", "--autoscale"]
    refused += [] if pool == "gevent" else ["--time-limit"]
    assert not [argument for argument in argv if argument.split("=")[0] in refused]


@given(st.integers(1, 100_000), st.integers(1, 20), st.sampled_from(["prefork", "gevent", "eventlet", "threads"]))
def test_nothing_is_killed_before_the_longest_task_can_have_ended(hard: int, multiplier: int, pool: str) -> None:
    raw = with_worker(pool=pool, concurrency=1, prefetch_multiplier=multiplier)
    raw["queues"][1]["time_limit"] = hard
    made = plan(raw)
    assert made.problems == ()
    host = made.values["hosts"]["worker1"]
    for item in host["programs"]:
        assert item["stopwaitsecs"] > item["longest_task"]
        assert host["stop_timeout"] > item["stopwaitsecs"]
    assert made.values["broker"]["consumer_timeout"] > 1000 * multiplier * hard
    assert made.values["broker"]["consumer_timeout"] >= 30 * 60 * 1000


def test_programs_and_supervisor_are_granted_a_minute_and_half_a_minute_more() -> None:
    assert program(declaration())["stopwaitsecs"] == 1200 + 60
    assert plan(declaration()).values["hosts"]["worker1"]["stop_timeout"] == 1200 + 60 + 30


def test_each_duty_is_that_of_one_host() -> None:
    groups = {**GROUPS, "beat": ["worker2"], "flower": ["worker1"], "monitor": ["control1"]}
    fleet = make_plan(declaration(), groups, FACTS).fleet
    assert {name: set(host.duties) for name, host in fleet.hosts.items()} == {
        "broker1": {"rabbitmq", "measured"},
        "worker1": {"app", "workers", "flower", "measured"},
        "worker2": {"app", "workers", "beat", "measured"},
        "control1": {"monitor", "measured"},
    }
    assert fleet.app_hosts == ("worker1", "worker2")


def test_each_directory_above_a_written_one_may_be_a_mount_point() -> None:
    points = plan(declaration(broker="valkey")).fleet.mount_points
    assert points == (
        "/",
        "/srv",
        "/srv/shop",
        "/var",
        "/var/lib",
        "/var/lib/shop",
        "/var/lib/valkey",
        "/var/log",
        "/var/log/journal",
        "/var/log/shop",
        "/var/log/shop-tasks",
    )


def test_each_host_that_watches_the_broker_needs_connections() -> None:
    apart = {**GROUPS, "beat": ["control1"], "flower": ["broker1"]}
    together = {**GROUPS, "beat": ["worker1"], "flower": ["worker1"]}
    more, fewer = (make_plan(declaration(), groups, FACTS).fleet.broker.limits for groups in (apart, together))
    assert more.connections - fewer.connections == 2 * BROKERS["rabbitmq"].costs.clients.monitor


@pytest.mark.parametrize("broker", ["rabbitmq", "redis"])
def test_flower_gets_the_settings_of_connections_alone(broker: str) -> None:
    names = set(plan(declaration(broker=broker)).fleet.flower_settings)
    assert "accept_content" in names
    assert not {name for name in names if name.startswith(("task_", "worker_", "result_", "beat_"))}
    timeouts = plan(declaration(broker=broker)).fleet.flower_settings.get("broker_transport_options", {})
    assert ("visibility_timeout" in timeouts) == (broker == "redis")


def test_what_is_unknown_is_compared_with_the_groups_of_the_inventory() -> None:
    (problem,) = plan(with_worker(group="wrokers")).problems
    assert "the inventory has beat, broker, empty, flower, workers)" in str(problem)


def test_people_see_the_size_of_a_pool() -> None:
    assert program(declaration(), "shop-customers")["size"] == "1-4"
    assert program(declaration())["size"] == "2"


def test_a_soft_limit_is_below_the_hard_one() -> None:
    raw = with_worker(time_limit=None, soft_time_limit=None)
    raw["queues"][1] |= {"time_limit": 100, "soft_time_limit": 90}
    raw["queues"].append({"name": "more", "tasks": ["more.*"], "time_limit": 40})
    raw["workers"][1] |= {"queues": ["video", "more"], "time_limit": 100}
    assert "--soft-time-limit=90" in program(raw)["argv"]


def test_a_declared_setting_is_marked_as_such() -> None:
    settings = plan(declaration(settings={"result_expires": 60})).fleet.settings
    assert settings["result_expires"].declared
    assert not settings["task_acks_late"].declared


def test_a_solo_worker_is_warned_of() -> None:
    assert any(
        "a solo worker does not answer" in text for text in plan(with_worker(pool="solo", concurrency=None)).warnings
    )
    assert not any("a solo worker" in text for text in plan(with_worker(pool="threads")).warnings)


def test_a_green_pool_is_granted_two_rounds_of_tasks_to_drain() -> None:
    assert program(with_worker(pool="gevent"))["stopwaitsecs"] > 2 * 1200


def test_memory_is_computed_from_the_applications_memory() -> None:
    raw = with_worker(concurrency=2)
    small, large = program(raw), program(raw | {"app_memory": "258MB"})
    assert (small["child_cap"], large["child_cap"]) == (256 * MIB, (258 + 160) * MIB)
    assert large["memory"] == 258 * MIB + 2 * large["child_cap"]
    assert f"--max-memory-per-child={(258 + 160) * 1024}" in large["argv"]


def test_a_cap_below_the_applications_memory_is_refused() -> None:
    raw = with_worker(max_memory_per_child="200MB") | {"app_memory": "258MB"}
    (problem,) = make_plan(raw, GROUPS, FACTS).problems
    assert str(problem).startswith("celery_workers[video].max_memory_per_child: 200 MB is not above the 258 MB")
    assert str(problem).endswith("Raise it to 418 MB")
    (problem,) = make_plan(declaration(app_memory="some"), GROUPS, FACTS).problems
    assert str(problem).startswith("celery_app_memory: 'some' is not a size")


def test_routes_and_queues_are_those_declared() -> None:
    raw = with_queue(transient=True)
    values = plan(raw).values
    assert [(route["pattern"], route["options"]) for route in values["routes"]] == [
        ("customers.*", {"queue": "customers"}),
        ("video.*", {"queue": "video", "delivery_mode": 1}),
    ]
    durable, transient = values["queues"]
    assert (durable["type"], durable["durable"], durable["exchange_type"]) == ("quorum", True, "topic")
    assert (transient["type"], transient["durable"]) == ("classic", False)
    assert values["default_queue"] == "customers"


@pytest.mark.parametrize(
    ("raw", "where", "what"),
    [
        (with_worker(group="empty"), "celery_workers[video].group", "has no hosts"),
        (with_worker(group="wrokers"), "celery_workers[video].group", "is not a group of the inventory"),
        (with_worker(name="customers"), "celery_workers", "the program shop-customers on worker1"),
        (with_worker(node_name="customers"), "celery_workers", "the node name customers@%h on worker1"),
        (declaration(broker="kafka"), "celery_broker", "'kafka' is not a broker"),
        (declaration(broker_port="amqp"), "celery_broker_port", "'amqp' is not a port"),
        (declaration(broker_port=70000), "celery_broker_port", "70000 is not a port"),
        (declaration(broker_group="empty"), "celery_broker_group", "has 0 hosts"),
        (declaration(broker_group="workers"), "celery_broker_group", "has 2 hosts"),
        (declaration(settings={"task_routes": {}}), "celery_settings.task_routes", "set by the plan"),
        (declaration(settings={"task_time_limit": 60}), "celery_settings.task_time_limit", "set by the plan"),
        (
            declaration(settings={"broker_transport_options": {"visibility_timeout": 60}}),
            "celery_settings.broker_transport_options.visibility_timeout",
            "set by the plan",
        ),
        (
            declaration(longest_countdown="soon", broker="redis"),
            "celery_longest_countdown",
            "not a number of seconds",
        ),
        (
            declaration(settings={"TASK_ACKS_LATE": 1}),
            "celery_settings.TASK_ACKS_LATE",
            "is not the name of a Celery setting",
        ),
        (
            declaration(settings={"worker_prefetch_multiplier": 0}),
            "celery_settings.worker_prefetch_multiplier",
            "prefetch the whole queue",
        ),
    ],
)
def test_an_invalid_declaration_is_refused(raw: dict[str, Any], where: str, what: str) -> None:
    found = [str(problem) for problem in plan(raw).problems]
    assert any(line.startswith(f"{where}: ") and what in line for line in found), found


def test_more_memory_than_the_host_has_is_refused_with_the_arithmetic() -> None:
    raw = with_worker(concurrency=8, max_memory_per_child="1GB")
    problems = [str(problem) for problem in plan(raw).problems]
    assert len(problems) == 2  # one a host
    assert "shop-video 8.09 GB" in problems[0]
    assert "but the host has 4 GB" in problems[0]


@pytest.mark.parametrize(("memory", "refused"), [("1GB", True), ("3GB", False), ("lots", True)])
def test_celery_broker_memory_overrides_the_plan(memory: str, refused: bool) -> None:
    made = plan(declaration(), worker1={**FACTS["worker1"], "declared_memory": memory})
    assert bool(made.problems) is refused


@given(st.integers(1, 64), st.integers(16, 4096), st.integers(256, 65536))
def test_a_plan_is_refused_exactly_when_it_needs_more_than_there_is(children: int, cap: int, memory: int) -> None:
    raw = with_worker(concurrency=children, max_memory_per_child=f"{cap}MB")
    made = plan(raw, worker1={**FACTS["worker1"], "memory_mb": memory})
    budget = made.values["hosts"]["worker1"]["memory"]
    assert budget["needed"] >= children * cap * MIB
    refused = any(problem.where == "memory of worker1" for problem in made.problems)
    assert refused == (budget["needed"] > memory * MIB)


def test_a_host_without_facts_is_planned_with_a_warning() -> None:
    made = plan(declaration(), worker2={})
    assert made.problems == ()
    assert any("memory of worker2 is not known" in line for line in made.warnings)


def test_there_is_one_beat_whatever_the_inventory_says() -> None:
    made = plan(declaration(beat_group="workers"))
    assert made.values["beat_host"] == "worker1"
    assert [name for name, host in made.values["hosts"].items() if "beat" in host["duties"]] == ["worker1"]
    assert any("worker1 is used, because only one may run" in line for line in made.warnings)


def test_a_pool_that_can_not_end_tasks_is_a_warning() -> None:
    assert any("can't end a task" in line for line in plan(with_worker(pool="threads")).warnings)


def test_a_users_setting_replaces_a_default() -> None:
    settings = plan(declaration(settings={"result_expires": 60})).values["settings"]
    assert settings["result_expires"]["value"] == 60


def test_the_tables_show_each_program_and_queue() -> None:
    text = "\n".join(plan_tables(plan(declaration()).fleet))
    assert "shop-customers" in text
    assert "video@worker2" in text
    assert "rabbitmq on broker1 (10.0.0.1:5671)" in text


def test_what_the_plan_says_of_many_hosts_is_short() -> None:
    hosts = [f"host{number}" for number in range(500)]
    facts = {name: FACTS["worker1"] | {"address": f"10.1.{n // 250}.{n % 250}"} for n, name in enumerate(hosts)}
    facts["broker1"] = FACTS["broker1"] | {"memory_mb": 32768}
    made = make_plan(declaration(), {**GROUPS, "workers": hosts}, {**FACTS, **facts})
    assert made.problems == ()
    lines = plan_tables(made.fleet)
    assert any("500: host0, host1, host2, host3, host4 and 495 more" in line for line in lines)
    assert len(lines) < 60
    assert max(map(len, lines)) < 400


def redis(**changes: Any) -> dict[str, Any]:
    return declaration(broker="redis", **changes)


@given(st.integers(1, 100_000), st.integers(1, 20), st.integers(1, 100_000))
def test_the_visibility_timeout_is_above_the_longest_task(hard: int, multiplier: int, countdown: int) -> None:
    raw = with_worker(prefetch_multiplier=multiplier)
    raw["queues"][1]["time_limit"] = hard
    made = plan({**raw, "broker": "redis", "longest_countdown": countdown})
    assert made.problems == ()
    options = made.values["settings"]["broker_transport_options"]["value"]
    assert options["visibility_timeout"] > multiplier * hard + countdown


def test_a_visibility_timeout_that_would_run_tasks_twice_is_refused_with_the_arithmetic() -> None:
    (problem,) = [str(problem) for problem in plan(redis(visibility_timeout=600)).problems]
    assert problem.startswith("celery_visibility_timeout: 600 s is too short")
    assert "1200 s (prefetch times the longest hard limit) after a countdown of 3600 s" in problem
    assert "with a margin of 300 s that is 5100 s" in problem
    assert plan(redis(visibility_timeout=5100)).values["broker"]["visibility_timeout"] == 5100


def test_only_the_broker_changes_when_the_broker_is_changed() -> None:
    rabbitmq, made = plan(declaration()).values, plan(redis()).values
    same = ("app", "default_queue", "longest_task", "beat_host", "flower_host", "routes")
    assert {key: made[key] for key in same} == {key: rabbitmq[key] for key in same}
    assert [host["programs"] for host in made["hosts"].values()] == [
        host["programs"] for host in rabbitmq["hosts"].values()
    ]
    assert made["broker"]["port"] == 6380
    assert made["broker"]["key_prefix"] == "shop:"
    assert {queue["exchange_type"] for queue in made["queues"]} == {"direct"}


def test_a_durable_queue_may_be_a_classic_one_and_have_priorities() -> None:
    made = plan(with_queue(type="classic", max_priority=10))
    _, queue = made.values["queues"]
    assert (queue["type"], queue["durable"]) == ("classic", True)
    assert queue["arguments"] == {"x-queue-type": "classic", "x-max-priority": 10}
    (warning,) = made.warnings
    assert warning.startswith("celery_queues[video].type: a classic queue has no delivery limit")
    (warning,) = plan({**with_queue(type="classic"), "broker": "redis"}).warnings
    assert warning == "celery_queues[video].type: it has no effect, because Redis has one kind of queue. Remove it"


@pytest.mark.parametrize(
    ("values", "broker", "expected"),
    [
        ({"max_priority": 10}, "rabbitmq", "a quorum queue has no such priorities. Set type: classic as well"),
        ({"max_priority": 10}, "redis", "queues of Redis have priorities without it; 0 is the highest. Remove it"),
        ({"max_priority": 999, "type": "classic"}, "rabbitmq", "999 is above 255. Set it to a lower number, e.g. 10"),
        ({"type": "quorum", "transient": True}, "rabbitmq", "it can't be transient. Remove type or transient"),
        ({"max_length": 5}, "redis", "Its memory is limited for all queues together. Remove it, or use RabbitMQ"),
        ({"max_length_bytes": "1GB"}, "redis", "limited for all queues together. Remove it, or use RabbitMQ"),
        (
            {"max_length": 5, "backlog": 6},
            "rabbitmq",
            "so the broker would refuse some of them. Raise it, or lower backlog",
        ),
        ({"max_length": 5, "alerts": {"depth": 5}}, "rabbitmq", "refuse tasks without an alert. Set it to 2 or so"),
        ({"max_length_bytes": "1MB"}, "rabbitmq", "Raise it, or lower backlog or message_size"),
        ({"type": "quorun"}, "rabbitmq", "(did you mean 'quorum'?). Set it to one of quorum, classic"),
    ],
)
def test_a_queue_that_the_broker_does_not_have_is_refused(values: dict[str, Any], broker: str, expected: str) -> None:
    (problem,) = make_plan({**with_queue(**values), "broker": broker}, GROUPS, FACTS).problems
    assert str(problem).endswith(expected)


def test_a_queue_with_a_limit_is_sized_and_watched_by_it() -> None:
    made = plan(with_queue(max_length=500, max_length_bytes="2GB"))
    _, queue = made.values["broker"]["queues"]
    assert (queue["max_length"], queue["max_length_bytes"]) == (500, 2 * 2**30)
    assert "max_length" not in made.values["queues"][1], "a worker would declare the queue with it"
    assert made.values["thresholds"]["video"]["depth"] == 250


def test_unsupported_promises_of_redis_are_warnings() -> None:
    raw = with_queue(transient=True, must_not_lose=True)
    warnings = " ".join(plan({**raw, "broker": "redis"}).warnings)
    assert "celery_queues[video].transient" in warnings
    assert "celery_queues[video].must_not_lose" in warnings
    assert not plan(with_queue(must_not_lose=True)).warnings


def test_an_option_of_the_transport_is_added_to_the_others() -> None:
    raw = redis(settings={"broker_transport_options": {"socket_timeout": 30}})
    options = plan(raw).values["settings"]["broker_transport_options"]["value"]
    assert options["socket_timeout"] == 30
    assert options["global_keyprefix"] == "shop:"


@pytest.mark.parametrize(
    ("given_", "address", "listens", "problem"),
    [
        ([], "10.0.0.1", ["10.0.0.1"], ""),
        ([], "8.8.8.8", ["8.8.8.8"], "8.8.8.8, is public"),
        (["8.8.8.8"], "8.8.8.8", ["8.8.8.8"], ""),
        (["127.0.0.1"], "10.0.0.1", ["127.0.0.1"], "can't be reached from control1, worker1, worker2"),
    ],
)
def test_the_broker_listens_where_the_fleet_needs_it(
    given_: list[str], address: str, listens: list[str], problem: str
) -> None:
    facts = {"broker1": {**FACTS["broker1"], "address": address}}
    made = plan(declaration(broker_listen_addresses=given_), **facts)
    assert made.values["broker"]["members"]["broker1"]["listen_addresses"] == listens
    assert [problem in str(found) for found in made.problems] == [True] * bool(problem)


@pytest.mark.parametrize(
    ("declared", "reached", "listens"),
    [
        ("", "127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1", "127.0.0.1"),
        ("10.0.0.2", "10.0.0.2", "10.0.0.2"),
    ],
)
def test_a_fleet_of_one_host_reaches_its_broker_where_it_listens(declared: str, reached: str, listens: str) -> None:
    groups = {name: ["worker1"] for name in ("all", "broker", "workers", "beat", "flower")}
    broker = make_plan(declaration(broker_address=declared), groups, FACTS).values["broker"]
    assert (broker["address"], broker["members"]["worker1"]["listen_addresses"]) == (reached, [listens])


def test_a_handover_has_two_slots_and_memory_for_both() -> None:
    (one,) = program(with_worker())["slots"]
    assert one == {"name": "shop-video", "node": "video@%h", "expanded_node": "video@%h"}
    raw = with_worker(activation="handover")
    first, second = program(raw)["slots"]
    assert (first["name"], first["node"]) == ("shop-video-a", "video-a@%h")
    assert (second["name"], second["node"]) == ("shop-video-b", "video-b@%h")
    facts = FACTS | {"worker1": FACTS["worker1"] | {"nodename": "w1.lan"}}
    (known,) = make_plan(with_worker(), GROUPS, facts).fleet.hosts["worker1"].programs[1].slots
    assert known.expanded_node == "video@w1.lan"
    parts = plan(raw).values["hosts"]["worker1"]["memory"]["parts"]
    assert parts["shop-video (both slots)"] == 2 * program(raw)["memory"]
    (problem, _) = [str(each) for each in plan(with_worker(activation="handover", max_memory_per_child="1GB")).problems]
    assert "shop-video (both slots) 4.19 GB" in problem
    assert "set activation: warm" in problem


def test_a_slot_can_not_have_another_workers_name() -> None:
    raw = with_worker(activation="handover")
    raw["workers"][0]["name"] = "video-a"
    raw["workers"][0]["queues"] = ["customers"]
    assert any("the program shop-video-a" in str(problem) for problem in plan(raw).problems)


def test_a_handover_of_a_queue_with_concurrency_one_is_a_warning() -> None:
    raw = with_worker(activation="handover", concurrency=1, group="beat")
    assert any("one task of video runs at a time, but two" in warning for warning in plan(raw).warnings)
    for other in (with_worker(activation="handover", concurrency=1), with_worker(concurrency=1, group="beat")):
        assert not any("at a time" in warning for warning in plan(other).warnings)


def test_each_program_of_a_host_has_its_log() -> None:
    names = FilterModule().filters()["log_names"]
    values = plan(with_worker(activation="handover")).values
    assert names("worker1", values) == [
        {"name": "shop-customers", "program": "shop-customers"},
        {"name": "shop-video-a", "program": "shop-video"},
        {"name": "shop-video-b", "program": "shop-video"},
    ]
    assert names("control1", values) == [{"name": "shop-beat", "program": "shop-beat"}]


def test_flower_has_a_user_of_its_own_and_does_not_control_by_default() -> None:
    values = plan(declaration()).values
    assert (values["broker"]["flower"], values["flower_control"]) == ("shop-flower", False)
    assert plan(declaration(flower_control=True)).values["flower_control"]
    assert make_plan(declaration(), {**GROUPS, "flower": []}, FACTS).values["broker"]["flower"] == ""


def test_flower_never_returns_the_tasks_of_a_lost_worker_to_redis() -> None:
    values = plan(declaration(broker="redis")).values
    options = values["flower_settings"]["broker_transport_options"]
    shared = values["settings"]["broker_transport_options"]["value"]
    assert options["visibility_timeout"] > 300_000_000
    assert {**options, "visibility_timeout": 0} == {**shared, "visibility_timeout": 0}


def test_rabbitmq_refuses_queues_above_the_fleets_own_and_two_for_each_connection() -> None:
    # Two queues of tasks, the dead letters, and 28 of delayed tasks.
    assert plan(declaration()).values["broker"]["max_queues"] == 531
    broker = plan(declaration(web_processes=5000)).values["broker"]
    assert broker["max_queues"] == 31 + 2 * broker["connections"]


def test_hosts_that_send_tasks_only_have_a_user_of_their_own_and_reach_the_broker() -> None:
    assert (plan(declaration()).values["producers"], plan(declaration()).values["broker"]["producer"]) == ([], "")
    groups = {"all": ["vm1", "web1"], "broker": ["vm1"], "workers": ["vm1"]}
    facts = {"vm1": {"memory_mb": 8192, "processors": 2, "address": "10.0.0.1"}}
    alone = make_plan(declaration(), groups, facts).values
    assert alone["broker"]["members"]["vm1"]["listen_addresses"] == ["127.0.0.1"]
    values = make_plan(declaration(), {**groups, "producers": ["web1"]}, facts).values
    assert (values["producers"], values["broker"]["producer"]) == (["web1"], "shop-producer")
    assert values["broker"]["members"]["vm1"]["listen_addresses"] == ["10.0.0.1"]
    assert list(values["hosts"]) == ["vm1"]


OWN = {"all_ipv4_addresses": ["127.0.0.1", "10.0.2.15", "192.168.56.11"], "all_ipv6_addresses": ["fe80::1"]}
ROUTE = OWN | {"default_ipv4": {"address": "10.0.2.15"}}
ONE = {"all_ipv4_addresses": ["10.0.2.15"], "default_ipv4": {"address": "10.0.2.15"}}
DOCKER = {
    "all_ipv4_addresses": ["172.17.0.1", "172.18.0.1", "10.0.2.15"],
    "all_ipv6_addresses": ["fd00:17::1"],
    "docker0": {"ipv4": {"address": "172.17.0.1"}, "ipv6": [{"address": "fd00:17::1"}, {"address": "fe80::2"}]},
    "br_0c2f5e7a9d31": {"ipv4": {"address": "172.18.0.1"}},
}


@pytest.mark.parametrize(
    ("variables", "facts", "address", "guessed"),
    [
        # Ansible's own address, if an interface has it: the default route may be a NAT's, the same on all hosts.
        ({"ansible_host": "192.168.56.11"}, ROUTE, "192.168.56.11", False),
        ({"inventory_hostname": "192.168.56.11"}, ROUTE, "192.168.56.11", False),
        # A NAT's public address, or a name.
        ({"ansible_host": "203.0.113.5"}, ONE, "10.0.2.15", False),
        ({"ansible_host": "b1.example.com"}, ROUTE, "10.0.2.15", True),
        ({"inventory_hostname": "b1"}, ONE, "10.0.2.15", False),
        ({"inventory_hostname": "b1"}, ROUTE, "10.0.2.15", True),
        # No default route.
        ({"ansible_host": "b1"}, {"all_ipv6_addresses": ["fd00::5", "fe80::1"]}, "fd00::5", False),
        ({"ansible_host": "b1"}, OWN, "b1", True),
        # Bridges of containers do not count, unless the host itself is reached by one.
        ({"ansible_host": "b1"}, DOCKER | {"default_ipv4": ONE["default_ipv4"]}, "10.0.2.15", False),
        ({"ansible_host": "172.17.0.1"}, DOCKER, "172.17.0.1", False),
        # No facts.
        ({"ansible_host": "192.168.56.11"}, {}, "192.168.56.11", False),
        ({"inventory_hostname": "b1"}, {}, "b1", False),
        ({"celery_host_address": "10.9.9.9", "ansible_host": "192.168.56.11"}, ROUTE, "10.9.9.9", False),
    ],
)
def test_a_host_has_the_address_that_other_hosts_reach(
    variables: dict[str, Any], facts: dict[str, Any], address: str, guessed: bool
) -> None:
    found = host_facts(variables | {"ansible_facts": facts})
    assert (found["address"], found["guessed"]) == (address, guessed)


def broker_with(variables: dict[str, Any], facts: dict[str, Any], **given: Any) -> Plan:
    return plan(declaration(**given), broker1={**FACTS["broker1"], **_address_of(variables, facts)})


def _address_of(variables: dict[str, Any], facts: dict[str, Any]) -> dict[str, Any]:
    found = host_facts(variables | {"ansible_facts": facts})
    return {name: found[name] for name in ("address", "addresses", "guessed")}


def test_a_guess_among_several_addresses_of_the_broker_is_reported() -> None:
    made = broker_with({"ansible_host": "b1"}, ROUTE)
    assert not made.problems
    assert made.values["broker"]["address"] == "10.0.2.15"
    (told,) = [warning for warning in made.warnings if "several addresses" in warning]
    assert told.startswith("broker1 has several addresses: 10.0.2.15, 192.168.56.11. The fleet uses 10.0.2.15")
    assert "celery_host_address" in told
    told_by: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
        ({"ansible_host": "192.168.56.11"}, {}),
        ({"celery_host_address": "192.168.56.11"}, {}),
        ({}, {"broker_address": "192.168.56.11"}),
    )
    for variables, declared in told_by:
        made = broker_with(variables, ROUTE, **declared)
        assert made.values["broker"]["address"] == "192.168.56.11"
        assert made.values["broker"]["members"]["broker1"]["listen_addresses"] == ["192.168.56.11"]
        assert "several addresses" not in " ".join(made.warnings)


def test_a_broker_of_several_addresses_without_a_default_route_must_say_which() -> None:
    (problem,) = broker_with({"ansible_host": "b1"}, OWN).problems
    assert problem.where == "celery_host_address of broker1"
    assert "10.0.2.15, 192.168.56.11" in str(problem)


def test_a_plan_for_reading_is_made_though_the_broker_cannot_be_reached() -> None:
    made = broker_with({"inventory_hostname": "b1.example.com"}, {})
    assert not made.problems
    assert made.values["broker"]["address"] == "b1.example.com"


def test_a_worker_without_a_concurrency_has_a_child_for_each_processor() -> None:
    raw = with_worker(concurrency=None)

    def size(processors: int | None) -> int:
        made = plan(raw, worker1={**FACTS["worker1"], "processors": processors})
        (video,) = [item for item in made.values["hosts"]["worker1"]["programs"] if item["worker"] == "video"]
        return int(video["concurrency"])

    assert (size(4), size(None)) == (4, 1)


def test_the_memory_of_pools_without_children_is_that_of_their_threads() -> None:
    assert program(with_worker(pool="threads", concurrency=4))["memory"] == (96 + 4 * 2) * MIB
    assert program(with_worker(pool="gevent", concurrency=100))["memory"] == (96 + 100 // 4) * MIB


def test_each_service_has_its_part_of_a_hosts_memory() -> None:
    values = make_plan(declaration(), {**GROUPS, "monitor": ["control1"]}, FACTS).values
    assert values["hosts"]["control1"]["memory"]["parts"] == {
        "beat": 80 * MIB,
        "flower": 256 * MIB,
        "monitor": 512 * MIB,
        "system": 128 * MIB,
    }
    assert values["hosts"]["control1"]["memory"]["needed"] == 976 * MIB
    assert values["hosts"]["control1"]["duties"] == ["app", "beat", "flower", "monitor", "measured"]
    addresses = {name: host["exporter"]["address"] for name, host in values["hosts"].items()}
    assert addresses["control1"] == "127.0.0.1"
    assert addresses["worker1"] == FACTS["worker1"]["address"]


def test_a_host_with_just_enough_memory_is_accepted() -> None:
    needed = plan(declaration()).values["hosts"]["worker1"]["memory"]["needed"]
    assert needed % MIB == 0
    exact, less = ({**FACTS["worker1"], "memory_mb": needed // MIB - missing} for missing in (0, 1))
    assert plan(declaration(), worker1=exact).problems == ()
    assert len(plan(declaration(), worker1=less).problems) == 1


def test_a_soft_limit_stays_below_a_lower_hard_limit() -> None:
    raw = with_worker(time_limit=270)
    # Its tasks have limits of 300 s and, soft, 270 s.
    del raw["queues"][1]["time_limit"]
    assert {"--time-limit=270", "--soft-time-limit=243"} <= set(program(raw)["argv"])
