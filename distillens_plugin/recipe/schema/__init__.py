"""The keys of a recipe: types, ranges, defaults, descriptions. Loads no torch."""
