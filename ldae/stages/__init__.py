"""The stages of the graph, one module each: files in, files out."""
