"""Compatibility of tasks' signatures between releases."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.fleet.celery.plugins.module_utils._compare import (
    Parameter,
    incompatible,
    lost,
    moves,
    read_signatures,
)
from hypothesis import given
from hypothesis import strategies as st


def signature(code: str) -> tuple[Parameter, ...]:
    """Return the parameters of a function with this signature."""
    function: Callable[..., Any] = eval(f"lambda {code}: None")  # noqa: S307 - a text of this file's
    return tuple(
        Parameter(each.name, each.kind.name, each.default is each.empty and not each.kind.name.startswith("VAR_"))
        for each in inspect.signature(function).parameters.values()
    )


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("a", "a", ""),
        ("a", "a, b=1", ""),
        ("a", "x, a=1", "requires x"),
        ("a", "a, b", "requires b, which messages of the old release don't have"),
        ("a, b=1", "a, b", "requires b, which was optional"),
        ("a, b", "a", "no longer takes b"),
        ("a, b", "a, **more", "in another order"),
        ("a, b", "a, *rest, **more", ""),
        ("a, b", "b, a", "in another order: (b, a), before (a, b)"),
        ("a, b", "*rest, **more", ""),
        ("*, a", "a", ""),
        ("a", "*, a", "in another order: (), before (a)"),
        ("*rest", "a=1", "any number"),
        ("**more", "a=1", "any number"),
        ("", "*, a=1", ""),
    ],
)
def test_an_incompatible_signature_is_found(old: str, new: str, reason: str) -> None:
    found = incompatible({"t": signature(old)}, {"t": signature(new)})
    assert reason in found.get("t", "")
    assert bool(found) == bool(reason), found


def test_a_removed_task_is_found_and_a_new_one_is_compatible() -> None:
    assert list(incompatible({"a": (), "b": ()}, {"b": (), "c": ()})) == ["a"]


def test_signatures_are_read_from_a_record() -> None:
    printed = {"t": [["a", "POSITIONAL_OR_KEYWORD", True], ["b", "KEYWORD_ONLY", False]]}
    assert read_signatures(printed) == {
        "t": (Parameter("a", "POSITIONAL_OR_KEYWORD", True), Parameter("b", "KEYWORD_ONLY", False))
    }


PARTS = ["a", "b", "c=1", "d=1", "*rest", "e", "f=1", "**more"]


@st.composite
def codes(draw: st.DrawFn) -> str:
    chosen = [part for part in PARTS if draw(st.booleans())]
    positional = draw(st.permutations([part for part in chosen if part in ("a", "b")]))
    after = [part for part in chosen if part not in ("a", "b")]
    if "*rest" not in after:
        after = [part for part in after if part not in ("e", "f=1")]
    return ", ".join([*positional, *after])


@given(codes(), codes(), st.data())
def test_calls_of_the_old_release_bind_to_whatever_is_compatible(old: str, new: str, data: st.DataObject) -> None:
    if incompatible({"t": signature(old)}, {"t": signature(new)}):
        return
    before, after = (inspect.signature(eval(f"lambda {code}: None")) for code in (old, new))  # noqa: S307
    positional = [name for name, each in before.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    at = data.draw(st.integers(0, len(positional)))
    more = data.draw(st.integers(0, 2)) if at == len(positional) and "*rest" in old else 0
    named = {
        name: 1
        for name, each in before.parameters.items()
        if not each.kind.name.startswith("VAR_")
        and name not in positional[:at]
        and (each.default is each.empty or data.draw(st.booleans()))
    }
    if "**more" in old and data.draw(st.booleans()):
        named["z"] = 1
    before.bind(*[1] * (at + more), **named)
    after.bind(*[1] * (at + more), **named)


def test_lost_messages_are_reported_if_both_signatures_are_known() -> None:
    old, new = {"a": signature("x"), "b": signature("x")}, {"a": signature("x")}
    found = lost("1.3.2", old, new)
    assert list(found) == ["b"]
    assert "Messages that 1.3.2 has sent could be lost" in found["b"]
    assert lost("1.3.2", old, {}) == lost("1.3.2", {}, new) == {}


def test_moved_tasks_and_removed_periodic_tasks_are_reported() -> None:
    found = moves({"a": "x", "b": "x", "c": ""}, {"a": "y", "b": "x", "c": "y"}, ["nightly", "hourly"], ["hourly"])
    assert found == [
        "The task a moves from the queue x to y. Messages in x are still consumed",
        "The periodic task nightly was removed",
    ]
