"""What the console hands to browsers and must know again: cookies and form tokens, sealed by a key of the store."""

import base64
import binascii
import hashlib
import hmac
import secrets

from exeat.plane.store.database import Tx

_SETTING = "console.key"
_KEY_BYTES = 32


class Seal:
    """HMAC-SHA256 under one key. `purpose`: what is sealed for one is worth nothing for another."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mac(self, purpose: str, text: str) -> str:
        """Only whoever has the key can say this about the text."""
        told = f"{purpose}\0{text}".encode(errors="surrogatepass")
        return hmac.new(self._key, told, hashlib.sha256).hexdigest()

    def is_mac(self, purpose: str, text: str, mac: str) -> bool:
        """Whether it was said about this text. Takes as long for a wrong one as for the right one."""
        return hmac.compare_digest(self.mac(purpose, text).encode(), mac.encode(errors="replace"))

    def closed(self, purpose: str, text: str) -> str:
        """The text and its mac, in letters that a cookie may have."""
        body = base64.urlsafe_b64encode(text.encode(errors="surrogatepass")).decode().rstrip("=")
        return f"{body}.{self.mac(purpose, text)}"

    def opened(self, purpose: str, sealed: str) -> str | None:
        """The text again; None if it is not what closed() gave."""
        body, dot, mac = sealed.rpartition(".")
        try:
            raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            text = raw.decode(errors="surrogatepass")
        except (binascii.Error, ValueError):
            return None
        return text if dot and self.is_mac(purpose, text, mac) else None


def seal_of(tx: Tx) -> Seal:
    """The store's, which all replicas share. Made up when it is asked for first."""
    made = secrets.token_hex(_KEY_BYTES)
    tx.do("INSERT INTO settings (name, value) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", _SETTING, made)
    row = tx.one("SELECT value FROM settings WHERE name = ?", _SETTING)
    return Seal(bytes.fromhex(row[0] if row else made))
