"""Tables of codes: folders of finished parts with a row a recording, Parquet or WebDataset shards."""
