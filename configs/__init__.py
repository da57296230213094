"""Shipped configurations: YAML files that name only what differs from the defaults in `detector.config`."""
