"""The same work on many machines, by way of Ray."""
