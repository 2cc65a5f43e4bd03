"""The benchmark of releases: figures from measurements."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bench.release import Figure, broken, example, lines_of, ratio, table
from bench.release_figures import extrapolate, least_squares, lowest_share, tasks_a_host, windows
from bench.release_fleet import inventory

RECAP = """
PLAY RECAP *********************************************************************
broker1  : ok=4    changed=0    unreachable=0    failed=0    skipped=0    rescued=0    ignored=0
worker1  : ok=20   changed=3    unreachable=0    failed=0    skipped=2    rescued=0    ignored=0
worker2  : ok=12   changed=3    unreachable=0    failed=0    skipped=2    rescued=0    ignored=0
"""


def figure(way: str, hosts: int, seconds: float, cpu: float = 10.0, batches: str = "all") -> Figure:
    return Figure(
        way=way,
        batches="" if way == "old" else batches,
        long=0,
        hosts=hosts,
        seconds=seconds,
        cpu=cpu,
        main=cpu / 2,
        tasks=20,
        load=1.0,
        well=True,
        lowest={1: 0.0, 10: 0.5},
        sent=100,
        done=100,
        failed=0,
        lost=0,
        repeated=0,
    )


def test_the_line_through_points() -> None:
    line = least_squares([(2, 7), (4, 11), (8, 19)])
    assert line is not None
    assert (line.a, line.b) == pytest.approx((3, 2))
    assert line.at(10) == pytest.approx(23)


def test_one_size_makes_no_line() -> None:
    assert least_squares([(2, 7), (2, 8)]) is None


def test_ansible_s_tasks_of_the_hosts_with_workers_count() -> None:
    assert tasks_a_host(RECAP, ["worker1", "worker2"]) == (22 + 14) / 2


def test_a_time_shorter_than_a_window_has_one() -> None:
    assert windows([0.5, 1.5, 9.0], 0, 2, 10) == [3]


def test_the_lowest_window_is_a_share_of_the_usual_one() -> None:
    # Ten a second for ten seconds, a second of nothing, and ten a second again.
    done = [number / 10 for number in range(200) if not 110 <= number < 120]
    assert lowest_share(done, (0, 10), (10, 20), 1) == pytest.approx(0, abs=0.11)
    assert lowest_share(done, (0, 10), (10, 20), 10) == pytest.approx(0.9, abs=0.02)


def test_without_tasks_before_there_is_no_share() -> None:
    assert lowest_share([12.0], (0, 10), (10, 20), 1) == 0


def test_more_hosts_side_by_side_wait_for_the_controller_alone() -> None:
    # 1 s a host on two cores, of which the main process has 0.25 s.
    points = [(2, 20.0, 12.0, 3.5), (4, 21.0, 14.0, 4.0)]
    found = extrapolate(points, 102, 2, one_by_one=False)
    assert found is not None
    assert (found.cpu, found.seconds) == pytest.approx((112, 20 + 100 / 2))


def test_the_main_process_has_one_core() -> None:
    points = [(2, 20.0, 12.0, 10.0), (4, 21.0, 14.0, 12.0)]
    found = extrapolate(points, 102, 2, one_by_one=False)
    assert found is not None
    assert found.seconds == pytest.approx(20 + 100)


def test_one_host_after_another_takes_as_long_as_all_together() -> None:
    points = [(2, 20.0, 1.0, 0.0), (4, 40.0, 2.0, 0.0)]
    found = extrapolate(points, 100, 2, one_by_one=True)
    assert found is not None
    assert found.seconds == pytest.approx(1000)


def test_a_ratio_is_to_sequential_ssh_on_as_many_hosts() -> None:
    figures = [figure("old", 2, 20), figure("old", 4, 40), figure("warm", 4, 10), figure("warm", 8, 10)]
    assert ratio(figures, figures[2]) == 0.25
    assert ratio(figures, figures[3]) is None


def test_the_lines_have_each_kind_of_release() -> None:
    figures = [figure("old", 2, 20, 1), figure("old", 4, 40, 2), figure("warm", 2, 10, 12), figure("warm", 4, 11, 14)]
    found = lines_of(figures)
    assert set(found) == {"old", "warm, all"}
    assert found["warm, all"][0].b == pytest.approx(1)


def test_the_table_has_a_row_for_each_release() -> None:
    rows = table([figure("warm", 2, 10), figure("old", 2, 20)])
    assert len(rows) == 3
    assert rows[1].split()[2] == "old"
    assert "0.50" in rows[2]


def test_a_broken_release_compiles_and_raises(tmp_path: Path) -> None:
    text = (broken(example(tmp_path, "bad-1")) / "shop" / "customers" / "tasks.py").read_text(encoding="utf-8")
    compile(text, "tasks.py", "exec")
    assert "a bug, on purpose" in text


def test_each_host_has_an_address_of_its_own() -> None:
    hosts = inventory(16, 60)["all"]["hosts"]
    assert len({host["ansible_host"] for host in hosts.values()}) == 18


def test_the_old_way_is_a_script_that_a_shell_reads() -> None:
    script = Path(__file__).parents[3] / "bench" / "old_way.sh"
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
