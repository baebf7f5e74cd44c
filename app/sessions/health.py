"""Which dependencies answered when they were last needed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Health:
    """Set by whoever asks a dependency for something; ``Recovery`` asks again those that did not answer."""

    archive_answers: bool = True
    index_answers: bool = True

    @property
    def takes_sessions(self) -> bool:
        """Whether a new session could be created."""
        return self.archive_answers and self.index_answers
