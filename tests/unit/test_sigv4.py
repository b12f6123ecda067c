"""Signatures of AWS, against the examples that AWS publishes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from faucet.kit.secret import Secret
from faucet.kit.upstream import Endpoint
from faucet.providers.catalog import CATALOG, provider_for
from faucet.providers.sigv4 import KeyPairSigner

# The key pair of AWS's documents, put together here so that nothing takes it for one of ours.
PAIR = "AKIDEXAMPLE:" + "wJalrXUtnFEMI/K7MDENG" + "+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)


def test_the_published_example_of_a_post() -> None:
    """Lost: every signed request is refused."""
    endpoint = Endpoint.parse("https://example.amazonaws.com", trusted=True)
    head = KeyPairSigner(PAIR, endpoint, service="service", region="us-east-1").headers(b"/", b"", NOW)
    assert head == (
        b"authorization: AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request,"
        b" SignedHeaders=host;x-amz-date,"
        b" Signature=5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b\r\n"
        b"x-amz-date: 20150830T123600Z\r\n"
    )


def test_a_key_pair_signs_and_a_key_is_shown() -> None:
    """Lost: half of a key pair is sent as a bearer, or a temporary pair goes without its token."""
    signed = provider_for(CATALOG["bedrock"], Secret(PAIR + ":session/token"))
    assert signed.signer is not None and b"authorization" not in signed.headers
    head = signed.signer.headers(b"/model/m/converse", b"{}", NOW)
    assert b"/us-east-1/bedrock/aws4_request" in head and b"x-amz-security-token: session/token\r\n" in head
    assert b"SignedHeaders=host;x-amz-date;x-amz-security-token" in head and b"EXAMPLEKEY" not in head
    shown = provider_for(CATALOG["bedrock"], Secret("ABSK-0123456789"))
    assert shown.signer is None and b"authorization: Bearer ABSK-0123456789\r\n" in shown.headers


@pytest.mark.parametrize(("base_url", "key"), [("https://proxy.example.com", PAIR), (None, "AKID:")])
def test_what_cannot_be_signed_is_refused_at_start(base_url: str | None, key: str) -> None:
    """Lost: it is found out with the first request, or signed for a region that was guessed."""
    with pytest.raises(ValueError, match="must be|region") as refused:
        provider_for(CATALOG["bedrock"], Secret(key), base_url=base_url)
    assert "EXAMPLEKEY" not in str(refused.value)
