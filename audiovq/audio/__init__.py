"""Signals and sound files."""
