"""What tests share: tiny models, signals, and a stand-in for the tokenizer."""
