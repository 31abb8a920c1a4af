"""A judge per exercise: raises Wrong with what is wrong in a learner's module, or returns."""
