"""How a job runs: files, randomness, progress, processes, locks, Slurm; knows nothing of the study."""
