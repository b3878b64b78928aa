"""Training: annotated pictures in, weights out. Only the command line imports this package."""
