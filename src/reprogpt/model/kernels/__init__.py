"""Fast paths for plain torch code, each tested equal to it; choose.py says which is used where."""
