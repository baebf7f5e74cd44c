"""A client of the wire contract ``kikitori.v1``: it knows ``app.protocol`` and sound, nothing of the server."""
