"""What a study's results say: tables, figures, one page."""
