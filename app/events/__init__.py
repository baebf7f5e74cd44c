"""What the clinic's other screens follow: the event model and the log's port."""
