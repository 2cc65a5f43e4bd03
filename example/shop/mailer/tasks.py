"""Mail. Its tasks wait for others nearly all the time, so they belong on gevent."""

# Celery has no types, so `app.task` has none.
# mypy: allow-untyped-decorators
from __future__ import annotations

import time

from django.core.mail import EmailMessage

from shop.celery import app


@app.task(name="email.send_order_confirmation")
def send_order_confirmation(order: int, recipient: str, wait: float = 0.2) -> str:
    """Send the confirmation of an order and return the message's id.

    The id follows from the order, so that mail servers and readers can tell a repeat from a second order.

    Args:
        order: the order's number.
        recipient: the customer's address.
        wait: seconds that the mail server takes. On gevent other tasks run meanwhile.
    """
    message_id = f"<order-{order}@shop.example>"
    message = EmailMessage(
        subject=f"Your order {order}",
        body=f"Thank you. We have received your order {order}.",
        to=[recipient],
        headers={"Message-ID": message_id},
    )
    time.sleep(wait)
    message.send()
    return message_id
