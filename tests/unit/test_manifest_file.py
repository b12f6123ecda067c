"""A file of features: what is right is read and written back the same, what is wrong is named by its path."""

from __future__ import annotations

import json

import pytest

from faucet.tenants.manifest_file import ManifestRefused, differences, read_manifest, write_manifest

GOOD = """
app: app_pub_demo
features:
  - feature_key: customer_reply
    display_name: 客户回复生成
    policy: {route_preference: [platform_pool], models: [a, b], max_output_tokens: 500, fit_to_wallet: false}
    pricing: {mode: usage_markup, markup_percent: 30, channel_share_bps: 4000}
  - feature_key: short
"""


def test_what_is_read_is_written_and_read_again() -> None:
    """Lost: an export that can't be applied."""
    manifest = read_manifest(GOOD)
    assert manifest.app == "app_pub_demo"
    first, second = manifest.features
    assert first.policy["models"] == ["a", "b"] and first.pricing["markup_percent"] == 30
    assert (second.display_name, second.policy, second.pricing) == ("short", {}, {})
    assert read_manifest(write_manifest(manifest)) == manifest
    assert read_manifest(write_manifest(manifest, as_json=True)) == manifest
    assert json.loads(write_manifest(manifest, as_json=True))["features"][0]["display_name"] == "客户回复生成"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("policy: {route", "polcy: {route"), "features[0].polcy: unknown word; did you mean `policy`?"),
        (("models: [a", "modles: [a"), "features[0].policy.modles: unknown word; did you mean `models`?"),
        (("channel_share_bps", "chanel_share_bps"), "did you mean `channel_share_bps`?"),
        (("[platform_pool]", "[platform_pol]"), "features[0].policy.route_preference[0]: must be one of"),
        (("markup_percent: 30", "markup_percent: 3000"), "features[0].pricing.markup_percent: must be 0 to 1000"),
        (("max_output_tokens: 500", "max_output_tokens: true"), "features[0].policy.max_output_tokens: must be"),
        (("feature_key: short", "feature_key: customer_reply"), "features: 'customer_reply' is there twice"),
        (("feature_key: short", "prompt: hi"), "features[1].prompt: is not acted on yet"),
        (("feature_key: short", "input_schema: {}"), "features[1].input_schema: is not acted on yet"),
        (("channel_share_bps: 4000", "free_quota: 5"), "features[0].pricing.free_quota: unknown word"),
        (("feature_key: short", "feature_key: a b"), "features[1].feature_key: must be"),
        (("app: app_pub_demo", "app: 7"), "app: must be the app's public id"),
        (("app: app_pub_demo", "app: &a x\nb: *a"), "aliases are not allowed"),
        (("app: app_pub_demo", "app: x\napp: y"), "the word 'app' is there twice"),
        (("app: app_pub_demo", "app: !!python/object:os.system x"), "line 2"),
        (("features:", "features: ["), "line"),
    ],
)
def test_what_is_wrong_is_named(change: tuple[str, str], problem: str) -> None:
    """Lost: a policy half understood, or an hour of looking for a typo."""
    with pytest.raises(ManifestRefused) as refused:
        read_manifest(GOOD.replace(*change, 1))
    assert problem in "\n".join(refused.value.problems)


@pytest.mark.parametrize("text", ["", "[]", "7", "app: x", "{" * 3_000, "a: " + "x" * 300_000, "\x00", "? [a]\n: b"])
def test_what_is_no_manifest(text: str) -> None:
    """Lost: a traceback for a wrong file."""
    with pytest.raises(ManifestRefused):
        read_manifest(text)


def test_every_problem_is_told_at_once() -> None:
    """Lost: a file that is mended one typo at a time."""
    with pytest.raises(ManifestRefused) as refused:
        read_manifest(GOOD.replace("models", "modles").replace("markup_percent", "markup").replace("app:", "ap:"))
    assert len(refused.value.problems) == 4


def test_differences_have_their_paths() -> None:
    """Lost: a diff that says only that something differs."""
    after = read_manifest(GOOD).features[0].body()
    before = json.loads(json.dumps(after))
    assert differences(before, after) == []
    before["policy"]["max_output_tokens"] = 100
    assert differences(before, after) == [("policy.max_output_tokens", 100, 500)]
    assert ("feature_key", None, "customer_reply") in differences(None, after)
