"""What is measured: linear heads, Fréchet distances, reconstruction, intervals."""
