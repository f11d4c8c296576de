"""The prior over codes: its network, drawing, likelihoods and the `.avq` bitstream."""
