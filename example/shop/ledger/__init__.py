"""The ledger: what each task did, written down once, so that lost and repeated tasks can be counted.

Every publish is a line ('sent'), and so is the start of every execution ('started') and its end ('done',
'failed', 'retried' or 'revoked'). Each host keeps its own files. Put together, they tell which tasks were
sent and never ended, and which were done more than once.

Lines are JSON objects with the keys event, id, root, task, queue, host, user, pid, worker, release, retries
and time. Files are only ever appended to, one write a line, so any number of processes may share one.
"""

from shop.ledger.counting import Count, Tally, count
from shop.ledger.writing import connect, directory, record

__all__ = ["Count", "Tally", "connect", "count", "directory", "record"]
