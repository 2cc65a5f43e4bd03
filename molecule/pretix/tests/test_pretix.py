"""pretix, a large application of the index that nobody edits, is deployed, released and rolled back."""

from __future__ import annotations

import pytest
from shared.application import Application, play, refused
from shared.deployed import connect, wait_until
from shared.playbook import changed, converge

SETUP = """
import django; django.setup()
from datetime import UTC, datetime
from uuid import uuid4
from django_scopes import scopes_disabled
from pretix.base.models import CartPosition, Event, Item, Organizer
from pretix.base.services.cart import add_items_to_cart
"""
SHOP = """
with scopes_disabled():
    organizer = Organizer.objects.create(name="Dummy", slug="dummy")
    event = Event.objects.create(organizer=organizer, name="A", slug="a", date_from=datetime.now(UTC), live=True)
    item = Item.objects.create(event=event, name="Ticket", default_price=23, active=True)
    event.quotas.create(name="all", size=100000).items.add(item)
print(json.dumps([event.pk, item.pk]))
"""
# It takes more from 2026.8.0 on.
ORDER = "pretix.base.services.orders.perform_order"


@pytest.fixture(scope="module")
def pretix() -> Application:
    return Application(connect("vm1"), "pretix", SETUP)


@pytest.fixture(scope="module")
def wares(pretix: Application) -> tuple[int, int]:
    """Return an event and a ticket of it."""
    event, item = pretix.python(SHOP)
    return event, item


def add(wares: tuple[int, int], cart: str) -> str:
    """Return code that sends a task which puts a ticket into a cart."""
    event, item = wares
    wanted = [{"item": item, "variation": None, "count": 1, "price": None, "voucher": None}]
    return f"add_items_to_cart.apply_async(kwargs=dict(event={event}, items={wanted!r}, cart_id={cart}))"


def test_a_page_gets_the_result_that_it_waits_for(pretix: Application, wares: tuple[int, int]) -> None:
    code = (
        f"result = {add(wares, repr('guest@api'))}\n"
        "result.get(timeout=600)\n"
        "with scopes_disabled():\n"
        "    print(json.dumps([result.state, CartPosition.objects.filter(cart_id='guest@api').count()]))"
    )
    assert pretix.python(code) == ["SUCCESS", 1]


def test_its_own_routes_decide_which_worker_does_a_task() -> None:
    assert "add_items_to_cart[" in play("logs", celery_logs_programs=["pretix-web"])
    assert "add_items_to_cart[" not in play("logs", celery_logs_programs=["pretix-background"])


def test_it_is_released_under_load_and_rolled_back(pretix: Application, wares: tuple[int, int]) -> None:
    code = f"[{add(wares, 'str(uuid4())')}.id for n in range(3)]"
    with pretix.load(code) as sent:
        told = play("deploy", test_version="2026.8.0")
        assert pretix.release() == "2026.8.0"
        assert f"The task {ORDER} no longer takes cart_id" in refused("rollback")
        play("rollback", celery_app_incompatible_tasks=[ORDER])
    assert pretix.release() == "2026.7.2"
    assert "broker_transport_options: the fleet's" in told
    results = f"from pretix.celery_app import app\nprint(json.dumps([app.AsyncResult(id).state for id in {sent!r}]))"
    # SQLite refuses a task that waits too long for another; that is an end, too.
    wait_until(lambda: set(pretix.python(results)) <= {"SUCCESS", "FAILURE"}, "not all of them are done")


def test_the_doctor_finds_what_this_kombu_is_known_for_and_a_second_run_changes_nothing() -> None:
    assert changed(converge()) == 0
    told = refused("doctor")
    assert told.count("kombu 5.6.2 has a known bug") == 2
    assert " 2 findings" in told


def test_a_cap_below_what_it_takes_is_refused() -> None:
    told = refused("plan", celery_worker_defaults={"max_memory_per_child": "200MB"})
    assert "200 MB is not above the 280 MB of celery_app_memory" in told
