"""The archive: its store port, the names in it, and those who write and finish it."""
