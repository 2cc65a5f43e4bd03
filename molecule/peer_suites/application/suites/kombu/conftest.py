"""Lets the client by which kombu's suite sees what became of its messages log in, as the administrator."""

import functools
import os

import redis

redis.Redis.__init__ = functools.partialmethod(
    redis.Redis.__init__, username=os.environ.get("REDIS_USER"), password=os.environ.get("REDIS_PASSWORD")
)
