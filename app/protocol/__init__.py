"""The wire contract ``kikitori.v1``, without I/O."""
