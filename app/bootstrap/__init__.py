"""The composition root: settings in, services out. The only place where adapters and engines are built."""

from app.bootstrap.checks import doctor_checks
from app.bootstrap.server import StartFailed, services
from app.bootstrap.storage import archive, clinic_registry, development_issuer, keys_of

__all__ = [
    "StartFailed",
    "archive",
    "clinic_registry",
    "development_issuer",
    "doctor_checks",
    "keys_of",
    "services",
]
