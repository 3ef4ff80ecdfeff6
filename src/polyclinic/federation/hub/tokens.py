"""Join tokens: one line that lets one party in, once, until a time.

A token holds where the hub is, the certificate authority to pin, and the key of a user of the server that may do
nothing but hand in a public key under this token's id. Whoever sees the token before it is used can join in the party's
place, so it goes over a way that both sides trust; the hub keeps only the public part of its key.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from polyclinic.errors import ConfigError, JoinRefused
from polyclinic.federation.hub.certificates import to_der, to_pem
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.identity import KeyPair
from polyclinic.federation.over_nats.subjects import Role

PREFIX = "polyclinic-join-1."
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_LONGEST = timedelta(days=30)


@dataclass(frozen=True)
class JoinToken:
    """What an invitation holds.

    Args:
        keys: of the user that may only join; secret.
        expires: for people; the hub's clock decides.
    """

    token_id: str
    keys: KeyPair
    role: Role
    party_id: str
    name: str
    hub_name: str
    urls: tuple[str, ...]
    ca: str
    expires: datetime

    @classmethod
    def new(
        cls, role: Role, party_id: str, name: str, *, hub_name: str, urls: tuple[str, ...], ca: str, expires: datetime
    ) -> JoinToken:
        """One with a fresh id and key."""
        return cls(secrets.token_hex(12), KeyPair.generate(), role, party_id, name, hub_name, urls, ca, expires)

    def encode(self) -> str:
        """One line of printable ASCII, about a thousand characters."""
        fields = {
            "id": self.token_id,
            "seed": self.keys.seed,
            "role": self.role,
            "party": self.party_id,
            "name": self.name,
            "hub": self.hub_name,
            "urls": self.urls,
            "ca": base64.b64encode(to_der(self.ca)).decode("ascii"),
            "expires": self.expires.isoformat(timespec="seconds"),
        }
        return PREFIX + base64.urlsafe_b64encode(json.dumps(fields, separators=(",", ":")).encode()).decode("ascii")

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """Reads one; blanks and line breaks that came in by pasting do no harm.

        Raises:
            JoinRefused: if it is none, or a part is missing.
        """
        plain = re.sub(r"\s", "", text)
        if not plain.startswith("polyclinic-join-"):
            raise JoinRefused("this is no join token", to_do=f"paste the whole line; it begins with {PREFIX}")
        if not plain.startswith(PREFIX):
            raise JoinRefused("this join token has another format", to_do="use the hub's version of Polyclinic")
        try:
            fields = json.loads(base64.b64decode(plain[len(PREFIX) :], altchars=b"-_", validate=True))
            token = cls(
                token_id=subjects.token(fields["id"]),
                keys=KeyPair(fields["seed"]),
                role=Role(fields["role"]),
                party_id=subjects.token(fields["party"]),
                name=str(fields["name"]),
                hub_name=str(fields["hub"]),
                urls=tuple(map(str, fields["urls"])),
                ca=to_pem(base64.b64decode(fields["ca"])),
                expires=datetime.fromisoformat(fields["expires"]),
            )
            _ = token.keys.public_key
        except Exception as err:  # whatever bytes do to the parsers
            raise JoinRefused("this join token is damaged", to_do="copy the whole line again") from err
        return token


def is_token(text: str) -> bool:
    """Whether it is meant as a join token, rather than as a name."""
    return text.strip().startswith("polyclinic-join-")


def duration(text: str) -> timedelta:
    """``"30m"``, ``"24h"`` or ``"7d"``.

    Raises:
        ConfigError: if it is none of these, zero, or more than 30 days.
    """
    if not (found := re.fullmatch(r"(\d{1,6})([mhd])", text.strip())):
        raise ConfigError(f"{text!r} is no length of time", to_do="write 30m, 24h or 7d")
    length = timedelta(**{_UNITS[found[2]]: int(found[1])})
    if not timedelta(0) < length <= _LONGEST:
        raise ConfigError(f"an invitation cannot be good for {text}", to_do="choose between 1m and 30d")
    return length
