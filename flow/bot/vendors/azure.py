"""Azure OpenAI: OpenAI's models as deployments of the operator's own resource.

A join names a deployment, not a model. The answer names the model behind it, by which it is
priced; an answer that never came is under the deployment's name.
"""

from __future__ import annotations

from typing import Any

import httpx

from flow.bot.vendors.openai import compatible_chat
from flow.bot.vendors.spec import Build, Vendor
from flow.metering.vendor_apis import AZURE_APIS
from flow.vendors.key_requests import get
from flow.vendors.openai_client import azure_client, openai_client


def _client(build: Build) -> Any:
    """A client of the API that the endpoint selects, as Pipecat's service selects it."""
    from pipecat.services.azure.llm import DATED_API_VERSION, V1_ENDPOINT_PATH

    if str(build.endpoint.base_url).rstrip("/").endswith(V1_ENDPOINT_PATH):
        return openai_client(build.endpoint, build.transport, is_other_vendor=True)
    return azure_client(build.endpoint, build.transport, DATED_API_VERSION)


def _address(build: Build) -> dict[str, Any]:
    return {"endpoint": str(build.endpoint.base_url)}


def _list_models(base_url: str, api_key: str) -> httpx.Request:
    """Its two surfaces have the list at different places, and the dated one wants a date."""
    from pipecat.services.azure.llm import DATED_API_VERSION, V1_ENDPOINT_PATH

    is_v1 = base_url.rstrip("/").endswith(V1_ENDPOINT_PATH)
    path = "/models" if is_v1 else f"/openai/models?api-version={DATED_API_VERSION}"
    return get(path, "api-key", "")(base_url, api_key)


VENDOR = Vendor(
    name="azure",
    key="AZURE_OPENAI_API_KEY",
    base_url=None,
    own_base_url_variable="AZURE_OPENAI_ENDPOINT",
    services=(compatible_chat("azure.llm:AzureLLMService", client=_client, extra=_address),),
    apis=AZURE_APIS,
    key_request=_list_models,
)
