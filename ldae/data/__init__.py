"""Images: where they come from, prepared arrays, crops and augmentations."""
