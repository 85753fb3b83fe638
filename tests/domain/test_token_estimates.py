"""Counting tokens offline."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flow.domain.usage.token_estimates import (
    IMAGE,
    IMAGE_LOW_DETAIL,
    count_tokens,
    estimate_chat_tokens,
)
from flow.domain.usage.tokenizer import dictionary

LONG = " ".join(
    f"Sentence number {n}, about {n * 7} other things: naïve, über, 東京." for n in range(900)
)


@pytest.mark.parametrize("text", [LONG, LONG.replace(" ", ""), "a" * 20_000, " " * 20_000])
def test_a_long_text_is_counted_in_pieces_as_it_is_in_one(text: str) -> None:
    in_one = len(dictionary("o200k_base").encode(text))
    assert in_one <= count_tokens(text) <= in_one + 2 * (len(text) // 8_000 + 1)


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_current_weather",
        "description": "Get the current weather in a given location",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {
                    "type": "string",
                    "description": "The city and state, e.g. San Francisco, CA",
                },
                "unit": {
                    "type": "string",
                    "description": "The unit of temperature to return",
                    "enum": ["celsius", "fahrenheit"],
                },
            },
            "required": ["location"],
        },
    },
}

# The example of OpenAI's cookbook, "How to count tokens with tiktoken", with what its API counted.
COOKBOOK = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate "
        "jargon into plain English.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "New synergies will help drive top-line growth.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities "
        "for increased leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client "
        "deliverable.",
    },
]
COOKBOOK_TOOLS = [
    {"role": "system", "content": "You are a helpful assistant that can answer to questions "
     "about the weather."},
    {"role": "user", "content": "What's the weather like in San Francisco?"},
]  # fmt: skip


@pytest.mark.parametrize(("model", "counted"), [("gpt-4o", 124), ("gpt-4", 129)])
def test_a_chat_counts_what_openai_counted(model: str, counted: int) -> None:
    assert estimate_chat_tokens(COOKBOOK, model=model) == counted


def test_a_chat_with_tools_counts_what_openai_counted() -> None:
    tool = {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "Get the current weather in a given location",
            "parameters": {
                "type": "object",
                "properties": {
                    "location": {
                        "type": "string",
                        "description": "The city and state, e.g. San Francisco, CA",
                    },
                    "unit": {
                        "type": "string",
                        "description": "The unit of temperature to return",
                        "enum": ["celsius", "fahrenheit"],
                    },
                },
                "required": ["location"],
            },
        },
    }
    assert estimate_chat_tokens(COOKBOOK_TOOLS, [tool], model="gpt-4o") == 101


@pytest.mark.parametrize(
    ("text", "model", "tokens"),
    [
        ("", "gpt-4.1", 0),
        ("hello world", "gpt-4.1", 2),
        ("tiktoken is great!", "gpt-4", 6),
        ("お誕生日おめでとう", "gpt-4", 9),
        ("お誕生日おめでとう", "gpt-4o", 8),
        ("お誕生日おめでとう", "openai/gpt-4.1-mini", 8),
        ("お誕生日おめでとう", "claude-sonnet-4-5", 8),
    ],
)
def test_text_counts_in_the_vocabulary_of_its_model(text: str, model: str, tokens: int) -> None:
    assert count_tokens(text, model) == tokens


def test_names_of_special_tokens_are_plain_text() -> None:
    assert count_tokens("<|endoftext|>", "gpt-4o") > 1
    message = {"role": "user", "content": "<|endoftext|><|im_start|>system"}
    assert estimate_chat_tokens([message]) > 6


@pytest.mark.parametrize("text", ["a b " * 100_000, "\U0001f600" * 60_000, "x\n" * 150_000])
def test_a_long_text_is_counted_whole(text: str) -> None:
    parts = sum(count_tokens(text[at : at + 40_000]) for at in range(0, len(text), 40_000))
    assert abs(count_tokens(text) - parts) <= 2 * (len(text) // 40_000 + 1)


def test_half_of_a_surrogate_pair_is_counted() -> None:
    assert count_tokens("\ud83d alone") >= 2


@given(
    text=st.text(), vocabulary=st.sampled_from([("gpt-4o", "o200k_base"), ("gpt-4", "cl100k_base")])
)
def test_a_text_counts_as_many_tokens_as_it_is_encoded_to(
    text: str, vocabulary: tuple[str, str]
) -> None:
    model, name = vocabulary
    assert count_tokens(text, model) == len(dictionary(name).encode_ordinary(text))


def test_counting_in_many_threads_agrees() -> None:
    texts = [f"number {i} of many " * (i + 1) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(count_tokens, texts)) == [count_tokens(text) for text in texts]


def chat(*content: Any) -> int:
    return estimate_chat_tokens([{"role": "user", "content": list(content)}])


def test_parts_of_a_message_count_by_what_they_are() -> None:
    text = {"type": "text", "text": "What is this?"}
    plain = estimate_chat_tokens([{"role": "user", "content": "What is this?"}])
    assert chat(text) == plain
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9000}}
    assert chat(text, picture) == plain + IMAGE
    picture["image_url"]["detail"] = "low"  # type: ignore[index]
    assert chat(text, picture) == plain + IMAGE_LOW_DETAIL
    sound = {"type": "input_audio", "input_audio": {"data": "A" * 9000, "format": "wav"}}
    assert chat(text, sound) == plain


def test_tool_calls_count_by_name_and_arguments_in_either_protocol() -> None:
    openai = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {"name": "book", "arguments": '{"day":"friday"}'},
            }
        ],
    }
    anthropic = {
        "role": "assistant",
        "content": [
            {"type": "tool_use", "id": "toolu_1", "name": "book", "input": {"day": "friday"}}
        ],
    }
    silent = estimate_chat_tokens([{"role": "assistant", "content": None}])
    assert estimate_chat_tokens([openai]) == estimate_chat_tokens([anthropic]) > silent + 5


def test_tools_in_anthropic_s_shape_count_like_openai_s() -> None:
    function: Mapping[str, Any] = WEATHER["function"]  # type: ignore[assignment]
    anthropic = {
        "name": function["name"],
        "description": function["description"],
        "input_schema": function["parameters"],
    }
    assert estimate_chat_tokens([], [anthropic]) == estimate_chat_tokens([], [WEATHER])


def test_nested_parameters_count() -> None:
    def tool(schema: dict[str, Any]) -> dict[str, Any]:
        parameters = {"type": "object", "properties": {"where": schema}}
        return {"type": "function", "function": {"name": "go", "parameters": parameters}}

    flat = estimate_chat_tokens([], [tool({"type": "object"})])
    deep = {"type": "object", "properties": {"street": {"type": "string"}}}
    assert estimate_chat_tokens([], [tool(deep)]) > flat


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["type", "text", "content", "function", "arguments", "name", "image_url",
             "properties", "enum", "input", "parameters", "detail"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=8,
)  # fmt: skip
messages = st.lists(
    st.dictionaries(
        st.sampled_from(["role", "content", "name", "tool_calls", "function_call", "tool_call_id"]),
        json_values,
    )
    | json_values
    | st.just(object()),
    max_size=4,
)


@given(messages=messages, tools=st.none() | st.lists(json_values | st.just(object()), max_size=3))
def test_any_shape_of_message_and_tool_is_counted(
    messages: list[Any], tools: list[Any] | None
) -> None:
    assert estimate_chat_tokens(messages, tools) >= 3 + 3 * len(messages)
