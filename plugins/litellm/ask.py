"""Ask a model through LiteLLM and its plans, by the OpenAI SDK: python ask.py "a question"."""

import os
import sys

from openai import APIStatusError, OpenAI

client = OpenAI(
    base_url=os.environ.get("LITELLM", "http://127.0.0.1:4000/v1"),
    api_key=os.environ.get("API_KEY", "secret"),  # of the account at the sidecar
    max_retries=0,
)
try:
    stream = client.chat.completions.create(
        model="small",
        messages=[{"role": "user", "content": sys.argv[1]}],
        max_tokens=int(os.environ.get("MAX_TOKENS", "100")),
        stream=True,
    )
    for chunk in stream:
        if chunk.choices:
            print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
except APIStatusError as error:
    retry = error.response.headers.get("Retry-After")
    sys.exit(f"{error.status_code}: {error.message}" + (f" (retry in {retry} s)" if retry else ""))
