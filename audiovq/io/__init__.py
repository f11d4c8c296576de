"""Files: whole or not at all, and the formats of codes and tensors."""

from __future__ import annotations

from typing import Any

JsonObject = dict[str, Any]
"""An object as `json` reads and writes it."""
