"""Flow's environment, read once at the composition root and passed on as values.

Vendors keep their own variable names; everything else is ``FLOW_*``. ``env.example`` lists each.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from flow.errors import ConfigurationError


def _data_dir() -> Path:
    """Where this user's data belongs; root's home is closed to the embedded database's user."""
    if os.geteuid() == 0:
        return Path("/var/lib/flow")
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "flow"


_PREFIX = re.compile(r"\+(?:[1-9][0-9]{0,14})?")
_ORIGIN = re.compile(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")


def _env(name: str) -> AliasChoices:
    return AliasChoices(name, name.lower())


class Settings(BaseSettings):
    """Every setting. An empty variable counts as not set."""

    model_config = SettingsConfigDict(
        env_prefix="FLOW_", env_ignore_empty=True, extra="ignore", populate_by_name=True
    )

    debug: bool = False
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    public_url: str | None = None
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    secret: SecretStr | None = None
    data_dir: Path = Field(default_factory=_data_dir)
    prices_file: Path | None = None
    products_file: Path | None = None
    bots: Annotated[tuple[str, ...], NoDecode] = ()
    quota_url: str | None = None
    quota_token: SecretStr | None = None
    quota_reuse_secs: Annotated[float, Field(ge=0, le=3600)] = 15.0
    billing_url: str | None = None
    cost_controls: Literal["on", "off"] | None = None
    webhooks_allow_private: bool = False
    dial_prefixes: Annotated[tuple[str, ...], NoDecode] = ()
    log_format: Literal["console", "json"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    capture_content: bool = False
    interrupted_streams: Literal["estimate", "drain"] = "estimate"
    gateway_product: str = "gateway"
    gateway_silence_secs: Annotated[float, Field(ge=1, le=3600)] = 600.0
    turn_detection: Literal["silence", "smart", "vendor"] = "silence"
    workflows: Literal["on", "off"] = "on"
    executor_id: Annotated[str, Field(max_length=200)] | None = None
    max_calls: Annotated[int, Field(ge=1, le=1000)] = 20
    drain_secs: Annotated[float, Field(ge=0, le=86_400)] = 30.0
    room_calls_per_key: Annotated[int, Field(ge=1, le=100_000)] = 100
    rejoin_grace_secs: Annotated[int, Field(ge=0, le=3600)] = 120
    turn_silence_secs: Annotated[float, Field(ge=0.1, le=5)] = 0.6
    heartbeat_secs: Annotated[float, Field(ge=0.5, le=10)] = 5.0
    sweep_secs: Annotated[float, Field(ge=1, le=300)] = 15.0
    idle_timeout_secs: Annotated[float, Field(gt=0, le=3600)] = 60.0
    join_token_secs: Annotated[int, Field(ge=5, le=3600)] = 300
    recordings_url: str | None = None
    recordings_days: Annotated[int, Field(ge=1, le=3650)] = 30
    recordings_link_secs: Annotated[int, Field(ge=60, le=604_800)] = 3600
    debug_api_key: SecretStr = SecretStr("flow_debug_key_not_a_secret")

    llm_provider: str = "openai"
    llm_model: str = "gpt-4.1"
    stt_provider: str = "openai"
    stt_model: str = "gpt-4o-transcribe"
    tts_provider: str = "openai"
    tts_model: str = "gpt-4o-mini-tts"
    tts_voice: str | None = None
    realtime_provider: str = "openai"
    realtime_model: str = "gpt-realtime"
    realtime_voice: str | None = None
    insights_model: str = "gpt-4.1-mini"

    database_url: SecretStr | None = Field(None, validation_alias=_env("DATABASE_URL"))
    supabase_url: str | None = Field(None, validation_alias=_env("SUPABASE_URL"))
    supabase_service_role_key: SecretStr | None = Field(
        None, validation_alias=_env("SUPABASE_SERVICE_ROLE_KEY")
    )
    unkey_root_key: SecretStr | None = Field(None, validation_alias=_env("UNKEY_ROOT_KEY"))
    unkey_api_id: str | None = Field(None, validation_alias=_env("UNKEY_API_ID"))
    unkey_base_url: str | None = Field(None, validation_alias=_env("UNKEY_BASE_URL"))
    posthog_api_key: SecretStr | None = Field(None, validation_alias=_env("POSTHOG_API_KEY"))
    posthog_host: str = Field("https://us.i.posthog.com", validation_alias=_env("POSTHOG_HOST"))
    posthog_personal_api_key: SecretStr | None = Field(
        None, validation_alias=_env("POSTHOG_PERSONAL_API_KEY")
    )
    posthog_project_id: Annotated[int, Field(ge=1)] | None = Field(
        None, validation_alias=_env("POSTHOG_PROJECT_ID")
    )
    openai_api_key: SecretStr | None = Field(None, validation_alias=_env("OPENAI_API_KEY"))
    openai_base_url: str | None = Field(None, validation_alias=_env("OPENAI_BASE_URL"))
    twilio_account_sid: str | None = Field(None, validation_alias=_env("TWILIO_ACCOUNT_SID"))
    twilio_auth_token: SecretStr | None = Field(None, validation_alias=_env("TWILIO_AUTH_TOKEN"))
    twilio_base_url: str = Field("https://api.twilio.com", validation_alias=_env("TWILIO_BASE_URL"))

    plivo_auth_id: str | None = Field(None, validation_alias=_env("PLIVO_AUTH_ID"))
    plivo_auth_token: SecretStr | None = Field(None, validation_alias=_env("PLIVO_AUTH_TOKEN"))
    plivo_base_url: str = Field("https://api.plivo.com", validation_alias=_env("PLIVO_BASE_URL"))

    daily_api_key: SecretStr | None = Field(None, validation_alias=_env("DAILY_API_KEY"))
    daily_api_url: str = Field("https://api.daily.co/v1", validation_alias=_env("DAILY_API_URL"))
    livekit_url: str | None = Field(None, validation_alias=_env("LIVEKIT_URL"))
    livekit_api_key: str | None = Field(None, validation_alias=_env("LIVEKIT_API_KEY"))
    livekit_api_secret: SecretStr | None = Field(None, validation_alias=_env("LIVEKIT_API_SECRET"))
    aws_access_key_id: str | None = Field(None, validation_alias=_env("AWS_ACCESS_KEY_ID"))
    aws_secret_access_key: SecretStr | None = Field(
        None, validation_alias=_env("AWS_SECRET_ACCESS_KEY")
    )
    aws_region: str | None = Field(None, validation_alias=_env("AWS_REGION"))
    aws_endpoint_url: str | None = Field(None, validation_alias=_env("AWS_ENDPOINT_URL"))
    otel_exporter_otlp_endpoint: str | None = Field(
        None, validation_alias=_env("OTEL_EXPORTER_OTLP_ENDPOINT")
    )
    otel_exporter_otlp_protocol: Literal["http/protobuf"] = Field(
        "http/protobuf", validation_alias=_env("OTEL_EXPORTER_OTLP_PROTOCOL")
    )

    @field_validator("bots", "cors_origins", "dial_prefixes", mode="before")
    @classmethod
    def _names(cls, value: str | tuple[str, ...]) -> tuple[str, ...]:
        names = value.split(",") if isinstance(value, str) else value
        return tuple(name.strip() for name in names if name.strip())

    @field_validator("dial_prefixes")
    @classmethod
    def _are_prefixes(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for prefix in value:
            if not _PREFIX.fullmatch(prefix):
                raise ValueError(
                    f"{prefix!r} is not how a number begins: give + and the country code, such as"
                    " +49,+43, or + for every country"
                )
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is no origin: give them as a browser does, such as"
                    " https://app.example.com or http://localhost:5173, without a path and"
                    " separated by commas, or * for every one"
                )
        return value

    @field_validator(
        "public_url",
        "quota_url",
        "billing_url",
        "supabase_url",
        "unkey_base_url",
        "posthog_host",
        "openai_base_url",
        "twilio_base_url",
        "plivo_base_url",
        "daily_api_url",
        "aws_endpoint_url",
        "otel_exporter_otlp_endpoint",
    )
    @classmethod
    def _is_http(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("must be an http:// or https:// URL")
        # Paths are appended to a base URL; one with a query of its own is used as it is.
        return value if parts.query else value.rstrip("/")

    @field_validator("livekit_url")
    @classmethod
    def _is_websocket(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        if parts.scheme not in {"ws", "wss"} or not parts.hostname or parts.username:
            raise ValueError("must be a ws:// or wss:// URL")
        if parts.path not in {"", "/"} or parts.query or parts.fragment:
            raise ValueError("must be the address of a server, without a path")
        return value.rstrip("/")

    @property
    def may_reach_private(self) -> bool:
        """Whether webhooks and tools may lead to private addresses: in debug mode alone."""
        return self.debug and self.webhooks_allow_private

    def variables(self, names: Iterable[str]) -> dict[str, str]:
        """The values of environment variables by their names, without those that are not set.

        One that is no setting of this class is read from the environment as it is.
        """
        found = {}
        for name in names:
            field = name.lower()
            known = field in type(self).model_fields
            value = getattr(self, field) if known else os.environ.get(name)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value:
                found[name] = str(value)
        return found

    @classmethod
    def read(cls) -> Settings:
        """The settings of this process's environment.

        Raises:
            ConfigurationError: one sentence per variable that is wrong.
        """
        try:
            return cls()  # type: ignore[call-arg]
        except ValidationError as error:
            raise ConfigurationError(_sentences(error)) from None


def plain_variables() -> tuple[str, ...]:
    """The variables of the service's own settings, without those that are secrets."""
    return tuple(
        _variable(name)
        for name, field in Settings.model_fields.items()
        if field.validation_alias is None
        and SecretStr not in (field.annotation, *get_args(field.annotation))
    )


def _variable(name: str) -> str:
    return name.upper() if name.upper() in _VENDOR_NAMES else f"FLOW_{name.upper()}"


def _sentences(error: ValidationError) -> str:
    said = []
    for problem in error.errors(include_input=False, include_url=False):
        name = str(problem["loc"][0])
        said.append(f"{_variable(name)}: {problem['msg'].removeprefix('Value error, ')}.")
    return "\n".join(said)


_VENDOR_NAMES = {
    name.upper() for name, f in Settings.model_fields.items() if f.validation_alias is not None
}
