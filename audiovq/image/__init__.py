"""The 2-D backend: pictures."""
