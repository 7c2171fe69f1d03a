"""A model behind an OpenAI-compatible endpoint, asked until it answers: vLLM, llama.cpp, Ollama and hosted ones.

What passes (no connection, a time-out, a server's error, too many requests) is waited for, longer each time, up to the
patience of the recipe: an endpoint that fails for an hour costs an hour. What does not pass (a refused key, an unknown
model) stops the run at once, with what is done kept. An answer of the wrong form is the caller's to judge.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from typing import Any

from ostinato.curate.clip import Halt
from ostinato.utils.errors import UserError

FIRST_WAIT = 1.0  # s
LONGEST_WAIT = 60.0  # s


class Endpoint:
    """One model of one server. url: up to and with /v1; key_variable: the environment variable that holds the key (a
    local server needs none)."""

    def __init__(self, url: str, model: str, key_variable: str, timeout: float, patience_hours: float):
        try:
            import openai
        except ImportError as error:
            raise UserError("an endpoint needs the package openai: pip install 'ostinato[curate]'") from error
        if not url:
            raise UserError(
                f"the model {model!r} needs the address it is served at: set url, as http://localhost:8000/v1"
            )
        self.model, self.patience, self._openai = model, 3600 * patience_hours, openai
        key = os.environ.get(key_variable) or "none"
        # Retries are ours: the client's own know nothing of hours.
        self.client = openai.OpenAI(base_url=url, api_key=key, timeout=timeout, max_retries=0)

    def ask(self, messages: Sequence[dict], **options: Any) -> str:
        """The text of one answer; "" where the model refuses, or sends none.

        Raises: Halt for what waiting does not help, and when patience is at its end.
        """
        began, wait = time.monotonic(), FIRST_WAIT
        while True:
            try:
                create: Any = self.client.chat.completions.create
                answer = create(model=self.model, messages=list(messages), **options)
                return self._text(answer)
            except (self._openai.BadRequestError, self._openai.UnprocessableEntityError):
                return ""  # this one request is not to its liking: too long, a content filter
            except (
                self._openai.AuthenticationError,
                self._openai.PermissionDeniedError,
                self._openai.NotFoundError,
            ) as error:
                raise Halt(
                    f"{self.client.base_url} says {_short(error)}: check the model's name and the key"
                ) from error
            except (self._openai.APIError, ValueError) as error:  # ValueError: a body that is not JSON
                waited = time.monotonic() - began
                if waited + wait > self.patience:
                    raise Halt(
                        f"{self.client.base_url} has not answered for {waited / 3600:.2f} h ({_short(error)}): "
                        "start it, and run the same command again, which goes on from here"
                    ) from error
                time.sleep(max(wait, _asked_wait(error)) * random.uniform(0.8, 1.2))
                wait = min(2 * wait, LONGEST_WAIT)

    def _text(self, answer: Any) -> str:
        choices = getattr(answer, "choices", None)
        message = choices[0].message if choices else None
        if message is None or getattr(message, "refusal", None):
            return ""
        return message.content if isinstance(message.content, str) else ""


def _short(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _asked_wait(error: Exception) -> float:
    """The seconds of a Retry-After header, 0 without one; never more than the longest wait of ours."""
    headers = getattr(getattr(error, "response", None), "headers", {}) or {}
    try:
        return min(float(headers.get("retry-after", 0)), LONGEST_WAIT)
    except (TypeError, ValueError):
        return 0.0
