"""The report on one or more systems: a page, plots, the rows shown in full."""
