"""The loop that all trainings share, and its optimizer."""
