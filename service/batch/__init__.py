"""Files -> predictions, many at a time and without HTTP."""
