"""The 1-D backend: waveforms."""
