"""What touches the world: stores, Redis, keys. Built by app.bootstrap alone."""
