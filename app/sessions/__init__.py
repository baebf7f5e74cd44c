"""One session: its states, its owner, its tasks; and the manager of them all."""
