"""What single pages show: each module works its table out of the results of an experiment, and draws it."""
