"""The 1-D backend: speech to codes and back."""
