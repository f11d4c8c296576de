"""Configurations: what can be set, checked when it is read."""
