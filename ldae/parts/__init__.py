"""The method: tokenizers, noise, network, objective, and the methods that the paper compares with."""
