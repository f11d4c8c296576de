"""Sampling from a WaveNet as fast as the machine allows."""
