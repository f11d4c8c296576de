"""What the codes have found: labels, counts, distances and an inventory, over recordings of any kind."""
