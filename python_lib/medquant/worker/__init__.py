"""The engine as a process of its own: requests as lines of JSON, arrays as files (see docs/worker.md)."""
