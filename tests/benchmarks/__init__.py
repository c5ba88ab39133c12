"""Measurements that people repeat: each module prints one line of JSON with --json."""
