"""Functions for a learner to write, each with a judge that says what is wrong: README.md."""
