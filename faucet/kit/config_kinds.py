"""The kinds of values that settings have, and the settings of upstream providers, three for each.

Not here: reading them (`config`), and what a provider is (`faucet/providers`).
"""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, PlainValidator
from pydantic_settings import BaseSettings

from faucet.kit.secret import Secret


def split_words(value: Any) -> Any:
    """A list that was given as text, separated by commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError("must be an http or https address without user, query or fragment")
    return text.rstrip("/")


def _secret(value: Any) -> Secret:
    if isinstance(value, Secret):
        return value
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text")
    return Secret(value.strip())


def _named_secrets(value: Any) -> tuple[tuple[str, Secret], ...]:
    if isinstance(value, tuple):
        return value
    found: dict[str, Secret] = {}
    for part in split_words(value):
        name, colon, text = part.partition(":")
        if not colon or not text or re.fullmatch(r"[a-z0-9][a-z0-9_.-]{0,63}", name) is None:
            raise ValueError("must be name:token, separated by commas; a name is of a-z, 0-9, _ . and -")
        if name in found or any(other.matches(text) for other in found.values()):
            raise ValueError(f"{name} is there twice, or has another's token")
        found[name] = Secret(text)
    return tuple(found.items())


SecretText = Annotated[Secret, PlainValidator(_secret)]
NamedSecrets = Annotated[tuple[tuple[str, Secret], ...], PlainValidator(_named_secrets)]
Words = Annotated[tuple[str, ...], BeforeValidator(split_words)]
Url = Annotated[str, AfterValidator(_base_url)]


class ProviderSettings(BaseSettings):
    """For each provider of the catalogue: a key that turns it on, another address, and what `auto` may choose."""

    openrouter_api_key: SecretText | None = None
    openrouter_base_url: Url | None = None
    openrouter_models: Words = ()
    anthropic_api_key: SecretText | None = None
    anthropic_base_url: Url | None = None
    anthropic_models: Words = ()
    gemini_api_key: SecretText | None = None
    gemini_base_url: Url | None = None
    gemini_models: Words = ()
    azure_openai_api_key: SecretText | None = None
    azure_openai_base_url: Url | None = None
    azure_openai_models: Words = ()
    bedrock_api_key: SecretText | None = None
    bedrock_base_url: Url | None = None
    bedrock_models: Words = ()
    mistral_api_key: SecretText | None = None
    mistral_base_url: Url | None = None
    mistral_models: Words = ()
    groq_api_key: SecretText | None = None
    groq_base_url: Url | None = None
    groq_models: Words = ()
    deepseek_api_key: SecretText | None = None
    deepseek_base_url: Url | None = None
    deepseek_models: Words = ()
    xai_api_key: SecretText | None = None
    xai_base_url: Url | None = None
    xai_models: Words = ()
    together_api_key: SecretText | None = None
    together_base_url: Url | None = None
    together_models: Words = ()
    fireworks_api_key: SecretText | None = None
    fireworks_base_url: Url | None = None
    fireworks_models: Words = ()
    cohere_api_key: SecretText | None = None
    cohere_base_url: Url | None = None
    cohere_models: Words = ()
    cerebras_api_key: SecretText | None = None
    cerebras_base_url: Url | None = None
    cerebras_models: Words = ()
    moonshot_api_key: SecretText | None = None
    moonshot_base_url: Url | None = None
    moonshot_models: Words = ()
    perplexity_api_key: SecretText | None = None
    perplexity_base_url: Url | None = None
    perplexity_models: Words = ()
    qwen_api_key: SecretText | None = None
    qwen_base_url: Url | None = None
    qwen_models: Words = ()
    zhipu_api_key: SecretText | None = None
    zhipu_base_url: Url | None = None
    zhipu_models: Words = ()
    siliconflow_api_key: SecretText | None = None
    siliconflow_base_url: Url | None = None
    siliconflow_models: Words = ()
    vllm_api_key: SecretText | None = None
    vllm_base_url: Url | None = None
    vllm_models: Words = ()
    ollama_api_key: SecretText | None = None
    ollama_base_url: Url | None = None
    ollama_models: Words = ()
