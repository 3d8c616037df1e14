"""Ports kept against the outside world: one adapter for each outside library; adapters do not know each other."""
