"""Compiled loops that speech and prior share."""
