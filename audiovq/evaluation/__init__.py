"""What a recording lost on its way through a model: in figures and in pictures."""
