"""What a study asks for: its graph of jobs, what each result is made from, and which results are current; no torch."""
