"""The engines, and the only files that know a vendor. Imported by the composition root alone."""
