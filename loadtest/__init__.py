"""What loads and measures the server from outside."""
