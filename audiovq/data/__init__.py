"""Corpora and the crops drawn from them."""
