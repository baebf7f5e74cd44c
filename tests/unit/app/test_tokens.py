from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.auth.principal import AuthError, Forbidden, Scope
from app.auth.tokens import JwtVerifier, parse_bearer
from tenants.clinic import Clinic, ClinicId

NOW = 1_800_000_000.0
ED = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


class Keys:
    def __init__(self) -> None:
        self.known = {
            "ed": jwt.PyJWK(OKPAlgorithm.to_jwk(ED.public_key(), as_dict=True), "EdDSA"),
            "ec": jwt.PyJWK(ECAlgorithm.to_jwk(EC.public_key(), as_dict=True), "ES256"),
            "rsa": jwt.PyJWK(RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=True), "RS256"),
        }

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        return self.known.get(key_id or "")


class OneClinic:
    async def find(self, clinic_id: ClinicId) -> Clinic | None:
        return Clinic(clinic_id) if clinic_id == "north" else None

    async def add(self, clinic: Clinic) -> None:
        raise AssertionError


VERIFIER = JwtVerifier(Keys(), "urn:issuer", "kikitori", OneClinic(), lambda: NOW)


def claims(**changes: Any) -> dict[str, Any]:
    given = {
        "iss": "urn:issuer",
        "aud": "kikitori",
        "sub": "dr.a",
        "clinic_id": "north",
        "exp": NOW + 60,
        "scope": "sessions:read sessions:write",
        **changes,
    }
    return {name: value for name, value in given.items() if value is not None}


def token(kid: str | None = "ed", key: Any = ED, algorithm: str = "EdDSA", **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers={"kid": kid} if kid else None)


async def refused(text: str) -> str:
    with pytest.raises(AuthError) as caught:
        await VERIFIER.verify(text)
    return caught.value.code


async def test_a_good_token_is_its_caller() -> None:
    principal = await VERIFIER.verify(token())
    assert (principal.subject, principal.clinic_id) == ("dr.a", "north")
    assert principal.scopes == {Scope.READ, Scope.WRITE}


@pytest.mark.parametrize(("kid", "key", "algorithm"), [("ec", EC, "ES256"), ("rsa", RSA, "RS256")])
async def test_the_other_signatures_are_accepted_too(kid: str, key: Any, algorithm: str) -> None:
    assert (await VERIFIER.verify(token(kid, key, algorithm))).subject == "dr.a"


async def test_unknown_scopes_are_ignored_and_none_is_fine() -> None:
    assert (await VERIFIER.verify(token(scope="openid ops  sessions:everything"))).scopes == {Scope.OPS}
    assert (await VERIFIER.verify(token(scope=None))).scopes == frozenset()


async def test_an_audience_among_others_is_enough() -> None:
    await VERIFIER.verify(token(aud=["other", "kikitori"]))


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "other"},
        {"iss": "urn:other"},
        {"nbf": NOW + 6},
        {"sub": ""},
        {"sub": "x" * 256},
        {"sub": "a\nb"},
        {"scope": ["ops"]},
        {"clinic_id": 7},
        {"exp": "tomorrow"},
        *({name: None} for name in ("exp", "iss", "aud", "sub", "clinic_id")),
    ],
)
async def test_wrong_or_missing_claims_are_refused(changes: dict[str, Any]) -> None:
    assert await refused(token(**changes)) == "token_invalid"


async def test_the_clocks_may_differ_by_five_seconds() -> None:
    await VERIFIER.verify(token(exp=NOW - 4))
    await VERIFIER.verify(token(nbf=NOW + 4))
    assert await refused(token(exp=NOW - 5)) == "token_expired"


async def test_the_clock_that_was_passed_in_decides() -> None:
    assert time.time() > 0
    past = JwtVerifier(Keys(), "urn:issuer", "kikitori", OneClinic(), lambda: 1000.0)
    assert (await past.verify(token(exp=1001, iat=999))).subject == "dr.a"


def unsigned(header: dict[str, Any]) -> str:
    parts = [json.dumps(header).encode(), json.dumps(claims()).encode(), b""]
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


async def test_what_the_issuer_did_not_sign_is_refused() -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    public = ED.public_key().public_bytes_raw()
    forged = [
        "",
        "garbage",
        "a.b.c",
        "é.ü.ß",
        token()[:-8] + "AAAAAAAA",
        "x" * 9000,
        token("ed", other),
        token("nobody"),
        token(None),
        token("ec"),
        token("rsa", EC, "ES256"),
        token("ed", public, "HS256"),
        unsigned({"alg": "none", "kid": "ed"}),
        unsigned({"alg": "None", "kid": "ed"}),
        unsigned({"alg": "EdDSA", "kid": "ed"}),
        unsigned({"alg": ["EdDSA"], "kid": "ed"}),
        unsigned({"alg": "EdDSA", "kid": 5}),
        unsigned({"kid": "ed"}),
        jwt.encode(claims(), RSA, algorithm="RS512", headers={"kid": "rsa"}),
    ]
    assert {await refused(text) for text in forged} == {"token_invalid"}


@pytest.mark.parametrize("clinic", ["south", "../north", "NORTH"])
async def test_a_clinic_that_is_not_registered_is_forbidden(clinic: str) -> None:
    with pytest.raises(Forbidden) as caught:
        await VERIFIER.verify(token(clinic_id=clinic))
    assert caught.value.code == "unknown_clinic"


def test_the_header_of_a_bearer_token() -> None:
    assert parse_bearer("bearer  abc ") == "abc"
    for header in (None, "", "Bearer", "Bearer  ", "Basic abc"):
        with pytest.raises(AuthError) as caught:
            parse_bearer(header)
        assert caught.value.code == "token_missing"
