"""Measurements, one module each: ``python -m loadtest.bench`` runs those that take no more than a minute or two."""
