"""The report on one or more systems: a page, plots, and rows shown in full."""
