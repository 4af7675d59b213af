"""The experiments of the book: what is run, the store of runs, and the results of an experiment."""
