"""Chat completions of an OpenAI-compatible endpoint: judges, and models that run elsewhere."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import random
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from grlo.errors import EndpointError, MissingExtraError
from grlo.interfaces import Progress, silent
from grlo.settings import require
from grlo.types import Message, Usage

if TYPE_CHECKING:
    from openai import APIStatusError

_FIRST_WAIT_SECONDS = 1.0
"""Before the first repetition; each further wait is twice as long, less up to a half at random."""
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_RETRY_AFTER_SECONDS = 300.0
"""A server that asks for more is not waited for."""
_OUTAGE = 3
"""Requests per place of concurrency that fail in a row, with all their repetitions, before the
endpoint counts as down."""
_EXCERPT = 300
"""Characters of a server's own words in an error."""
_SETTINGS_FAULTS = (
    "insufficient_quota",
    "invalid_model",
    "model_not_found",
    "unsupported_model",
    "unsupported_parameter",
    "unsupported_value",
)
"""Codes of errors that every request would meet."""


@dataclass(frozen=True)
class EndpointSettings:
    """Where a model answers, how it is asked, and what that costs."""

    base_url: str
    """Up to and with the version, such as `https://api.openai.com/v1`."""
    model: str
    """Name of the model at the endpoint."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; empty for a server that wants none. The key itself
    belongs in no recipe."""
    max_tokens: int = 2048
    """Most tokens of a reply, those of hidden reasoning included."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """How the endpoint calls that limit: OpenAI's reasoning models want the second."""
    temperature: float | Literal["default"] = 0.0
    """`default` leaves it out of the request, for models that accept no other than their own."""
    seed: int | None = None
    """Sent when given; servers that know no seed ignore it."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Further fields of the request, such as `reasoning_effort`."""
    timeout_seconds: float = 120.0
    """Longest silence of the server within one request."""
    retries: int = 5
    """Repetitions of a request that met a busy or broken server, or no server."""
    concurrency: int = 16
    """Requests at the same time."""
    cache: str | None = None
    """Folder that keeps replies, relative to the working directory; what it holds is not asked
    again. Processes may share it."""
    dollars_per_million_input: float | None = None
    """Price of the input; without prices the ledger holds tokens and no dollars."""
    dollars_per_million_output: float | None = None

    def __post_init__(self) -> None:
        address = urllib.parse.urlsplit(self.base_url)
        require(
            address.scheme in ("http", "https") and bool(address.hostname),
            "base_url must be an address such as https://api.openai.com/v1",
        )
        require(
            not (address.username or address.password or address.query),
            "base_url must hold no key, user, password or query: run records keep it. Put the key "
            "into the environment variable that api_key_env names",
        )
        require(
            not self.api_key_env or self.api_key_env.isidentifier(),
            "api_key_env must be the name of an environment variable, not a key",
        )
        require(bool(self.model), "model must be a name")
        require(self.max_tokens > 0, "max_tokens must be positive")
        require(
            self.temperature == "default" or self.temperature >= 0,
            "temperature must not be negative",
        )
        require(self.timeout_seconds > 0, "timeout_seconds must be positive")
        require(self.retries >= 0, "retries must not be negative")
        require(self.concurrency > 0, "concurrency must be positive")
        taken = {"model", "messages", "stream", "n", "max_tokens", "temperature", "seed"}
        clash = sorted(taken & set(self.extra))
        require(not clash, f"extra must not hold {', '.join(clash)}")
        prices = (self.dollars_per_million_input, self.dollars_per_million_output)
        require(
            (prices[0] is None) == (prices[1] is None),
            "dollars_per_million_input and dollars_per_million_output must be given together",
        )
        require(all(price is None or price >= 0 for price in prices), "prices are not negative")


@dataclass(frozen=True)
class ChatRequest:
    """One conversation to be continued. Equal requests get the same reply."""

    messages: tuple[Message, ...]
    draw: int = 0
    """Tells apart requests for several replies to one conversation. Where the settings have a seed,
    that of the request is higher by so much."""


@dataclass(frozen=True)
class Reply:
    """What the model wrote."""

    text: str
    finish_reason: str
    """`stop`, `length`, ..., in the endpoint's own words."""
    input_tokens: int
    """As the endpoint counts; 0 where it does not say."""
    output_tokens: int
    model: str
    """The model by the name that the endpoint gives it, often with a date or version."""
    is_cached: bool = False
    """Whether it was on disk and cost nothing."""


@dataclass(frozen=True)
class Failure:
    """Why there is no reply; nothing that the request itself could mend."""

    reason: str


class _TransientError(Exception):
    """A failure that may pass. `wait_seconds` is what the server asked for, if it did."""

    def __init__(self, reason: str, *, wait_seconds: float | None = None) -> None:
        super().__init__(reason)
        self.wait_seconds = wait_seconds


class Endpoint:
    """Asks a model through the `openai` library, several requests at a time.

    The key is read once, from the environment. It is in no message, error, record or cache file:
    also what a server repeats of it is replaced.

    Args:
        settings: See `EndpointSettings`.
        accepts_empty: Whether a reply without text is a reply; else it is a failure.

    Raises:
        MissingExtraError: The `openai` library is not installed.
        EndpointError: The variable of the key is not set, or the cache cannot be written.
    """

    def __init__(self, settings: EndpointSettings, *, accepts_empty: bool = False) -> None:
        try:
            import openai
        except ModuleNotFoundError as error:
            raise MissingExtraError("openai", extra="remote") from error
        self._settings, self._accepts_empty = settings, accepts_empty
        self._key = _read_key(settings)
        self._client = openai.OpenAI(
            api_key=self._key or "none",  # The library insists on one.
            base_url=settings.base_url,
            timeout=settings.timeout_seconds,
            max_retries=0,  # Repeated here, where every request is counted.
        )
        self._cache = None if settings.cache is None else _Cache(Path(settings.cache))
        self._lock = threading.Lock()
        self._requests = self._input_tokens = self._output_tokens = 0
        self._failed_in_a_row = 0
        self._begun: dict[ChatRequest, Reply | Failure] = {}
        """Replies that the next call of `complete` need not ask for."""
        self._stop = threading.Event()
        """Set, nothing is asked again."""
        self._has_answered = False

    def begin(self, requests: Sequence[ChatRequest]) -> None:
        """Asks what the next call of `complete` will ask; that has the replies then.

        Raises:
            EndpointError: See `complete`.
        """
        begun = self._begun
        try:
            replies = dict(zip(requests, self.complete(requests), strict=True))
        finally:
            self._begun = begun | self._begun
        self._begun |= replies

    def complete(
        self, requests: Sequence[ChatRequest], *, progress: Progress = silent
    ) -> list[Reply | Failure]:
        """One reply per request, in order; equal requests are asked once.

        A server that is busy, broken or silent (408, 409, 429, 5xx, time-outs, lost connections,
        replies that are no completion) is asked again after a wait that grows, or as long as its
        Retry-After says. What then still fails is a `Failure`, as is a request that the server
        refuses for its content.

        Args:
            requests: What to ask.
            progress: Called as replies arrive, with the tokens that they cost.

        Raises:
            EndpointError: Every request would fail: key, address, model or a setting is refused,
                the account is empty, or the endpoint is down.
        """
        stop = self._stop = threading.Event()
        tokens = 0
        begun, self._begun = self._begun, {}
        replies = {request: begun[request] for request in requests if request in begun}
        with ThreadPoolExecutor(max_workers=self._settings.concurrency) as pool:
            futures = {
                request: pool.submit(self._answer, request, stop)
                for request in dict.fromkeys(requests)
                if request not in replies
            }
            total, first = len(replies) + len(futures), len(replies) + 1
            try:
                for done, future in enumerate(as_completed(futures.values()), start=first):
                    reply = future.result()
                    if isinstance(reply, Reply) and not reply.is_cached:
                        tokens += reply.input_tokens + reply.output_tokens
                    progress(done=done, total=total, tokens=tokens)
            except BaseException:
                stop.set()
                pool.shutdown(cancel_futures=True)
                # What was answered is paid: the next call has it.
                self._begun = replies | {
                    request: future.result()
                    for request, future in futures.items()
                    if not future.cancelled() and future.exception() is None
                }
                raise
        replies |= {request: future.result() for request, future in futures.items()}
        return [replies[request] for request in requests]

    def close(self) -> None:
        """Ends the connections; what is being asked in another thread is not asked again."""
        self._stop.set()
        self._client.close()

    def drain_usage(self) -> Usage:
        """What was asked since the last call; replies from the cache cost nothing."""
        with self._lock:
            counts = self._requests, self._input_tokens, self._output_tokens
            self._requests = self._input_tokens = self._output_tokens = 0
        requests, input_tokens, output_tokens = counts
        price_in = self._settings.dollars_per_million_input or 0.0
        price_out = self._settings.dollars_per_million_output or 0.0
        return Usage(
            requests=requests,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            dollars=(input_tokens * price_in + output_tokens * price_out) / 1e6,
        )

    def _answer(self, request: ChatRequest, stop: threading.Event) -> Reply | Failure:
        """The reply on disk, or else the server's, asked as often as `retries` allows."""
        payload = self._payload(request)
        # The server is not told of the draw, but what it says for another draw is another reply.
        key = {**payload, "draw": request.draw} if request.draw else payload
        if self._cache and (cached := self._cache.read(self._settings.base_url, key)):
            return cached
        for attempt in range(self._settings.retries + 1):
            if stop.is_set():
                break
            try:
                answer = self._send(payload)
            except _TransientError as error:
                failure = Failure(str(error))
                wait = _wait_seconds(attempt, asked=error.wait_seconds)
                if wait is None or attempt == self._settings.retries:
                    self._note_failure(failure, stop)
                    return failure
                stop.wait(wait)
            except EndpointError:
                stop.set()
                raise
            else:
                with self._lock:
                    self._failed_in_a_row, self._has_answered = 0, True
                if self._cache and isinstance(answer, Reply):
                    self._cache.write(self._settings.base_url, key, answer)
                return answer
        return Failure("another request ended the run")

    def _payload(self, request: ChatRequest) -> dict[str, Any]:
        """The body of the request."""
        settings = self._settings
        payload: dict[str, Any] = {
            "model": settings.model,
            "messages": [
                # JSON can hold half of a surrogate pair, UTF-8 cannot.
                {"role": m.role, "content": m.content.encode("utf-8", "replace").decode()}
                for m in request.messages
            ],
            settings.max_tokens_field: settings.max_tokens,
        }
        if settings.temperature != "default":
            payload["temperature"] = settings.temperature
        if settings.seed is not None:
            payload["seed"] = settings.seed + request.draw
        return payload | dict(settings.extra)

    def _send(self, payload: Mapping[str, Any]) -> Reply | Failure:
        """One request.

        Raises:
            _TransientError: It may succeed when it is repeated.
            EndpointError: No request can succeed.
        """
        import openai

        with self._lock:
            self._requests += 1
        body = dict(payload)
        try:
            response = self._client.chat.completions.with_raw_response.create(
                model=body.pop("model"), messages=body.pop("messages"), extra_body=body
            )
        except openai.APIStatusError as error:
            return self._refusal(error)
        except openai.APITimeoutError:
            raise _TransientError(f"no answer in {self._settings.timeout_seconds:g} s") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__
            reason = self._without_key(f"{type(cause).__name__}: {cause}" if cause else str(error))
            raise _TransientError(
                f"no connection to {self._settings.base_url} ({reason})"
            ) from None
        return self._read(response.http_response.content)

    def _read(self, content: bytes) -> Reply | Failure:
        """The reply in the body of a response. Tokens count even where there is no text."""
        written = self._without_key(content.decode("utf-8", "replace"))
        try:
            body = json.loads(written)
            usage = body.get("usage") or {}
            input_tokens = int(usage.get("prompt_tokens") or 0)
            output_tokens = int(usage.get("completion_tokens") or 0)
            with self._lock:
                self._input_tokens += input_tokens
                self._output_tokens += output_tokens
            choice = body["choices"][0]
            text, finish_reason = choice["message"]["content"], str(choice.get("finish_reason"))
            if text is not None and not isinstance(text, str):
                raise TypeError("content is no text")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            raise _TransientError(f"the reply is no chat completion: {_excerpt(written)}") from None
        if not text and not self._accepts_empty:
            return Failure(f"the reply has no text (finish_reason {finish_reason})")
        model = str(body.get("model") or self._settings.model)
        return Reply(text or "", finish_reason, input_tokens, output_tokens, model)

    def _refusal(self, error: APIStatusError) -> Failure:
        """What an HTTP error means for this request; raises what it means for all."""
        settings, status = self._settings, error.status_code
        found = (
            f"HTTP {status} from {settings.base_url}: {_excerpt(self._without_key(error.message))}"
        )
        if status == 401 or (status == 403 and not self._has_answered):
            remedy = (
                f"Put a valid key into the environment variable {settings.api_key_env}"
                if settings.api_key_env
                else "Name the environment variable that holds the key in endpoint.api_key_env"
            )
            raise EndpointError(f"the endpoint refuses access. {found}. {remedy}.") from None
        if status == 404:
            raise EndpointError(
                f"there is no model {settings.model!r}, or no endpoint. {found}. Correct "
                "endpoint.model, or endpoint.base_url, which mostly ends in /v1."
            ) from None
        if status == 402 or error.code == "insufficient_quota":
            raise EndpointError(f"the account is empty. {found}. Add credit and resume.") from None
        if error.code in _SETTINGS_FAULTS or error.param == "model":
            raise EndpointError(
                f"the endpoint refuses a setting. {found}. Correct the section of the endpoint "
                "(model, temperature, max_tokens_field, extra)."
            ) from None
        if status in (408, 409, 429) or status >= 500:
            wait = _retry_after_seconds(error.response.headers.get("retry-after"))
            raise _TransientError(found, wait_seconds=wait) from None
        return Failure(found)

    def _note_failure(self, failure: Failure, stop: threading.Event) -> None:
        """Ends the run when many requests in a row have failed with all their repetitions."""
        with self._lock:
            self._failed_in_a_row += 1
            num_failed = self._failed_in_a_row
        if num_failed >= _OUTAGE * self._settings.concurrency:
            stop.set()
            raise EndpointError(
                f"the endpoint {self._settings.base_url} is down: {num_failed} requests in a row "
                f"failed, each after {self._settings.retries} repetitions; the last: "
                f"{failure.reason}. Check endpoint.base_url and the server, then resume."
            )

    def _without_key(self, text: str) -> str:
        """A server's own words, which may repeat the key."""
        return text.replace(self._key, "[key]") if self._key else text


class _Cache:
    """Replies on disk, one file each, named by the SHA-256 of all that determines the reply.

    A file is written aside and renamed, so a kill leaves it whole or absent; one that is damaged
    anyway (its text does not match its own digest) counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise _cache_error(folder, error) from error

    def read(self, base_url: str, payload: Mapping[str, Any]) -> Reply | None:
        try:
            row = json.loads(self._path(base_url, payload).read_bytes())
            stored = row["reply"]
            if row["digest"] != _digest(stored):
                return None
            return Reply(**{**stored, "is_cached": True})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, base_url: str, payload: Mapping[str, Any], reply: Reply) -> None:
        path, stored = self._path(base_url, payload), asdict(reply)
        row = {"base_url": base_url, "request": payload, "reply": stored, "digest": _digest(stored)}
        try:
            path.parent.mkdir(exist_ok=True)
            handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".partial")
            try:
                with os.fdopen(handle, "w", encoding="ascii") as file:
                    json.dump(row, file)
                os.replace(aside, path)
            except BaseException:
                with suppress(OSError):
                    os.unlink(aside)
                raise
        except OSError as error:
            raise _cache_error(self._folder, error) from error

    def _path(self, base_url: str, payload: Mapping[str, Any]) -> Path:
        name = _digest({"base_url": base_url, "request": payload})
        return self._folder / name[:2] / f"{name}.json"


def _excerpt(text: str) -> str:
    return text if len(text) <= _EXCERPT else text[:_EXCERPT] + "..."


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("ascii")).hexdigest()


def _cache_error(folder: Path, error: OSError) -> EndpointError:
    return EndpointError(
        f"the cache of replies {folder} cannot be written: {error.strerror}. Make room or choose "
        "another endpoint.cache; what it holds stays valid."
    )


def _read_key(settings: EndpointSettings) -> str:
    if not settings.api_key_env:
        return ""
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise EndpointError(
            f"the environment variable {settings.api_key_env} is not set, but the endpoint "
            f"{settings.base_url} takes its key from there. Set it, name another one in "
            "endpoint.api_key_env, or set that to '' for a server that wants no key."
        )
    return key


def _wait_seconds(attempt: int, *, asked: float | None) -> float | None:
    """How long to wait after a failed attempt (0 for the first); None is too long to wait for."""
    if asked is not None:
        return asked if asked <= _LONGEST_RETRY_AFTER_SECONDS else None
    wait = min(_FIRST_WAIT_SECONDS * 2**attempt, _LONGEST_WAIT_SECONDS)
    return wait * random.uniform(0.5, 1.0)


def _retry_after_seconds(header: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date (RFC 9110, 10.2.3)."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None
