"""Fast paths, each tested equal to the plain torch code that it replaces."""
