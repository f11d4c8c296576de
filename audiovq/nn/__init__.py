"""Parts that both backends share."""
