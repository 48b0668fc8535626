"""Leases, marks and heartbeats in Redis (7.0 or newer) or Valkey, which makes the promise cheap."""

from oncecast.stores.redis.leases import RedisLeases

__all__ = ["RedisLeases"]
