"""Leases, done markers and heartbeats in Redis (7.0 or newer) or Valkey, which save work."""

from oncecast.stores.redis.leases import RedisLeases

__all__ = ["RedisLeases"]
