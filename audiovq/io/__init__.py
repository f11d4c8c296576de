"""Files: whole or not at all, and the formats of codes and tensors."""
