"""The commands of `ldae`: those that a person types (`study`, `models`, `shell`) and those that the rules call."""
