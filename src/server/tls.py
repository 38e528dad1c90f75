"""How the connection is secured: DB_SSL_MODE and its files as the driver's arguments."""

from __future__ import annotations

from typing import Any

from config.database import Settings
from src.errors import SettingsError


def driver_arguments(settings: Settings) -> dict[str, Any]:
    """Return the driver's arguments for DB_SSL_MODE, over TCP."""
    mode = settings.db_ssl_mode
    if mode == "disabled":
        return {"ssl_disabled": True}
    if mode == "preferred" and not settings.db_ssl_cert:
        return {}  # the driver's default: TLS where the server offers it, unverified
    import ssl

    for name in ("db_ssl_ca", "db_ssl_cert", "db_ssl_key"):
        try:
            if path := getattr(settings, name):
                open(path, "rb").close()
        except OSError as error:
            raise SettingsError(f"{name.upper()}={path}: cannot read it: {error.strerror}") from None
    try:
        context = ssl.create_default_context(cafile=settings.db_ssl_ca or None)
        if settings.db_ssl_cert:  # an empty password, for else a locked key would be asked for on the terminal
            context.load_cert_chain(settings.db_ssl_cert, settings.db_ssl_key or None, password="")
    except ssl.SSLError as error:
        raise SettingsError(f"DB_SSL_CA, DB_SSL_CERT and DB_SSL_KEY do not hold what they should: {error}") from None
    # Python 3.13 refuses certificates as MySQL makes them, and as most in-house authorities do.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    context.check_hostname = mode == "verify-identity"
    context.verify_mode = ssl.CERT_REQUIRED if mode.startswith("verify") else ssl.CERT_NONE
    return {"ssl": context}
