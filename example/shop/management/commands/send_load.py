"""`django-admin send_load --count 300`: send real tasks to every queue."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections import defaultdict
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from shop.celery import app
from shop.load import mix


class Command(BaseCommand):  # type: ignore[misc]  # Django has no types
    """Send a mix of tasks and print the ids of those sent, by queue, as JSON."""

    help = "Sends a mix of tasks to every queue and prints their ids as JSON. Does not wait for them."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own way

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add this command's options."""
        parser.add_argument("--count", type=int, default=300, help="how many tasks (default: 300)")
        parser.add_argument("--seed", type=int, default=1, help="another seed gives another mix (default: 1)")

        parser.add_argument("--no-failures", action="store_true", help="send no task that fails on purpose")

    def handle(self, *_args: Any, **options: Any) -> None:
        """Send them.

        Raises:
            CommandError: the count is not positive.
        """
        if options["count"] < 1:
            raise CommandError(f"--count is {options['count']}, must be at least 1")
        # A task is known to the application once its module is imported.
        app.loader.import_default_modules()
        queues: dict[str, list[str]] = defaultdict(list)
        calls = mix(options["count"], options["seed"], failures=not options["no_failures"])
        for call in calls:
            queue = app.amqp.router.route({}, call.task)["queue"].name
            queues[queue].append(app.tasks[call.task].apply_async(kwargs=call.arguments).id)
        children = sum(call.children for call in calls)
        sent = {
            "queues": dict(sorted(queues.items())),
            # Sent by those above when they run.
            "children": children,
            "total": len(calls) + children,
            # Those among them that are meant to fail.
            "failures": sum(call.task == "customers.fail" for call in calls),
        }
        self.stdout.write(json.dumps(sent))
