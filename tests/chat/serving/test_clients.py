"""Clients that people use, as they are."""

import asyncio

import pytest

QUESTION = [{"role": "user", "content": "따라 해 1 2"}]


@pytest.fixture(scope="module")
def keyed(serve, fast_chatbot):
    with serve(fast_chatbot, api_key="sk-test") as running:
        yield running


@pytest.fixture(scope="module")
def reply(keyed):
    return keyed.ask().json()["choices"][0]["message"]["content"]


def options(server):
    return {"base_url": f"{server.url}/v1", "api_key": "sk-test", "max_retries": 0}


def test_openai(keyed, reply):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(**options(keyed))
    assert [model.id for model in client.models.list()] == ["bot"]
    assert client.models.retrieve("bot").owned_by == "chatformer"
    completion = client.chat.completions.create(model="bot", messages=QUESTION, n=2)
    assert [choice.message.content for choice in completion.choices] == [reply, reply]
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
    chunks = list(
        client.chat.completions.create(
            model="bot", messages=QUESTION, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == reply
    assert chunks[-1].usage.completion_tokens * 2 == completion.usage.completion_tokens
    with client.chat.completions.stream(model="bot", messages=QUESTION) as stream:
        assert stream.get_final_completion().choices[0].message.content == reply


def test_openai_async(keyed, reply):
    openai = pytest.importorskip("openai")

    async def ask():
        async with openai.AsyncOpenAI(**options(keyed)) as client:
            requests = [client.chat.completions.create(model="bot", messages=QUESTION) for _ in range(5)]
            whole = [answer.choices[0].message.content for answer in await asyncio.gather(*requests)]
            streamed = ""
            async for chunk in await client.chat.completions.create(model="bot", messages=QUESTION, stream=True):
                streamed += chunk.choices[0].delta.content or ""
            return [*whole, streamed]

    assert asyncio.run(ask()) == [reply] * 6


def test_openai_knows_the_errors(keyed):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(**options(keyed))
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt", messages=QUESTION)
    assert (missing.value.code, missing.value.type) == ("model_not_found", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="bot", messages=QUESTION, logprobs=True)
    assert refused.value.param == "logprobs" and refused.value.request_id


def test_langchain(keyed, reply):
    langchain_openai = pytest.importorskip("langchain_openai")
    model = langchain_openai.ChatOpenAI(model="bot", temperature=0, **options(keyed))
    assert model.invoke("따라 해 1 2").content == reply
    assert "".join(chunk.text for chunk in model.stream([("system", "짧게"), ("human", "따라 해 1 2")]))


def test_llm(keyed, reply):
    pytest.importorskip("llm")
    from llm.default_plugins.openai_models import Chat

    model = Chat("bot", model_name="bot", api_base=f"{keyed.url}/v1")
    assert model.prompt("따라 해 1 2", key="sk-test", stream=False).text() == reply
    assert "".join(model.prompt("따라 해 1 2", key="sk-test", stream=True)) == reply


def test_litellm(keyed, reply, monkeypatch):
    # Otherwise it asks the network for prices.
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    litellm = pytest.importorskip("litellm")
    options = {"model": "openai/bot", "messages": QUESTION, "api_base": f"{keyed.url}/v1", "api_key": "sk-test"}
    assert litellm.completion(**options).choices[0].message.content == reply
    chunks = litellm.completion(**options, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == reply
