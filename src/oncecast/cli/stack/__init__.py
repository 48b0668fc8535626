"""The commands around a stack: `up`, `stop`, `start`, `kill`, `demo`, `status`, `sql`."""
