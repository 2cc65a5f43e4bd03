"""Two rollouts at once, and one that died."""

from __future__ import annotations

from ansible_collections.fleet.celery.plugins.module_utils._lock import STALE_SECONDS, Holder, take

ANN = Holder("run-1", "ann@controller", since=1000.0, heard=1100.0)


def test_a_free_lock_is_taken_and_kept() -> None:
    first, told = take(None, "run-1", "ann@controller", 1000.0)
    assert (first, told) == (Holder("run-1", "ann@controller", 1000.0, 1000.0), "")
    again, _ = take(first, "run-1", "ann@controller", 1100.0)
    assert again == ANN


def test_a_live_one_keeps_others_out_and_says_who_it_is() -> None:
    holder, told = take(ANN, "run-2", "bob@laptop", 1110.0)
    assert holder is None
    assert "ann@controller, since 110 s, last heard of 10 s ago" in told


def test_a_dead_one_is_taken_over() -> None:
    holder, told = take(ANN, "run-2", "bob@laptop", 1100.0 + STALE_SECONDS)
    assert holder is not None
    assert holder.owner == "bob@laptop"
    assert "ann@controller" in told
