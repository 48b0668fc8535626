"""Dead letters after their row is written: the log file, the broker, the replay."""
