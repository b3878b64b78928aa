"""Between the processes: who may wait, what runs next, and the worker it runs in."""
