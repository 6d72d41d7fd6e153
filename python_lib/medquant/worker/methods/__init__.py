"""What the worker can be asked for, one module for each kind of work; imported when it is asked for first."""
