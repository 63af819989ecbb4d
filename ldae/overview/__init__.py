"""What a study costs, where it stands and what would run; no torch."""
