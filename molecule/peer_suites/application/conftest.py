"""What the suites run with: nothing that changes what they ask."""

import functools

from celery.app.control import Inspect

# There is one worker, so its answer is the last. By themselves, they wait a second longer after each test.
Inspect.__init__ = functools.partialmethod(Inspect.__init__, limit=1)
