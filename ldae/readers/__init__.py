"""Results as tables, figures, verdicts and one page; no torch."""
