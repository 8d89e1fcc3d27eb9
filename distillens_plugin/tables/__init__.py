"""What a table of names is made of: an entry's maker, and ranges of numbers. Loads no torch."""
