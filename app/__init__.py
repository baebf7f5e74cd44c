"""The Kikitori server: protocol, sessions, archive, and the thin I/O around them."""
