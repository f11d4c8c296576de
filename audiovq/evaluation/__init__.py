"""Objective quality metrics, of the models and of other codecs."""
