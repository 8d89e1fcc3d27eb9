"""One evaluation: prompts, answers, stored as they finish."""
