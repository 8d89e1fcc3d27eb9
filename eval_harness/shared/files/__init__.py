"""Files that appear whole or not at all, and files that are read strictly."""
