"""An endpoint keeps order, repeats what may pass, stops at what cannot, and counts everything."""

from __future__ import annotations

import email.utils
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import grlo.endpoint
from fake_endpoint import Answer, completion, error, serve
from grlo.endpoint import ChatRequest, Endpoint, EndpointSettings, Failure, Reply
from grlo.errors import EndpointError, MissingExtraError
from grlo.types import Message, Usage

KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def _key_and_short_waits(monkeypatch):
    monkeypatch.setenv("TEST_KEY", KEY)
    monkeypatch.setattr(grlo.endpoint, "_FIRST_WAIT_SECONDS", 0.01)


def settings(url: str, **changes: Any) -> EndpointSettings:
    plain = EndpointSettings(
        base_url=url, model="m", api_key_env="TEST_KEY", timeout_seconds=5, retries=3, concurrency=4
    )
    return replace(plain, **changes)


def ask(text: str) -> ChatRequest:
    return ChatRequest((Message("user", text),))


def asked(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def echo(body: dict[str, Any], _: int) -> Answer:
    return completion(f"re: {asked(body)}")


def texts(replies: list[Reply | Failure]) -> list[str | None]:
    return [reply.text if isinstance(reply, Reply) else None for reply in replies]


def test_replies_come_in_the_order_of_the_requests_though_the_server_answers_in_another():
    def slow_first(body, number):
        return replace(echo(body, number), delay_seconds=0.05 if number % 4 == 0 else 0.0)

    seen: list[tuple[int, int, int]] = []
    with serve(slow_first) as server:
        replies = Endpoint(settings(server.url)).complete(
            [ask(str(i)) for i in range(20)],
            progress=lambda *, done, total, tokens: seen.append((done, total, tokens)),
        )
    assert texts(replies) == [f"re: {i}" for i in range(20)]
    assert 1 < server.most_at_once <= 4
    assert seen == [(done, 20, 15 * done) for done in range(1, 21)]


def test_the_request_holds_what_the_settings_say_and_nothing_else():
    with serve(echo) as server:
        Endpoint(settings(server.url)).complete([ask("a")])
        changed = settings(
            server.url,
            temperature="default",
            seed=7,
            max_tokens=9,
            max_tokens_field="max_completion_tokens",
            extra={"reasoning_effort": "low"},
        )
        Endpoint(changed).complete([ask("b")])
    assert server.headers[0][":path"] == "/v1/chat/completions"
    assert server.headers[0]["authorization"] == f"Bearer {KEY}"
    messages = [{"role": "user", "content": "a"}]
    assert server.bodies[0] == {
        "model": "m",
        "messages": messages,
        "max_tokens": 2048,
        "temperature": 0.0,
    }
    assert server.bodies[1] == {
        "model": "m",
        "messages": [{"role": "user", "content": "b"}],
        "max_completion_tokens": 9,
        "seed": 7,
        "reasoning_effort": "low",
    }


def test_equal_requests_are_asked_once_and_all_get_the_reply():
    with serve(echo) as server:
        endpoint = Endpoint(settings(server.url))
        replies = endpoint.complete([ask("a"), ask("b"), ask("a")])
    assert texts(replies) == ["re: a", "re: b", "re: a"]
    assert endpoint.drain_usage().requests == len(server.bodies) == 2


def test_usage_counts_every_request_and_prices_every_token():
    def fails_once(body, number):
        return error(503) if number == 0 else completion("x", tokens=(1000, 200))

    with serve(fails_once) as server:
        priced = settings(
            server.url, dollars_per_million_input=2.0, dollars_per_million_output=10.0
        )
        endpoint = Endpoint(priced)
        endpoint.complete([ask("a"), ask("b")])
    # 2000 input tokens at 2 and 400 output tokens at 10 dollars per million.
    assert endpoint.drain_usage() == Usage(3, 2000, 400, pytest.approx(0.004 + 0.004))
    assert endpoint.drain_usage() == Usage()


def test_a_busy_server_is_asked_again_no_sooner_than_it_says():
    def busy(body, number):
        return error(429, headers={"Retry-After": "0.4"}) if number == 0 else echo(body, number)

    with serve(busy) as server:
        replies = Endpoint(settings(server.url)).complete([ask("a")])
    assert texts(replies) == ["re: a"]
    assert server.times[1] - server.times[0] >= 0.4


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_passing_failures_are_repeated(status: int):
    with serve(lambda b, n: error(status) if n == 0 else echo(b, n)) as server:
        assert texts(Endpoint(settings(server.url)).complete([ask("a")])) == ["re: a"]
    assert len(server.bodies) == 2


def test_a_retry_after_may_be_a_date_and_nonsense_counts_as_none():
    seconds = grlo.endpoint._retry_after_seconds
    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert seconds(later) == pytest.approx(30, abs=1.5)
    assert seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert seconds("-3") == 0.0
    assert [seconds(None), seconds("soon"), seconds("nan"), seconds("")] == [None] * 4


def test_waits_double_up_to_a_limit_and_a_server_that_asks_for_an_hour_is_given_up(monkeypatch):
    monkeypatch.setattr(grlo.endpoint, "_FIRST_WAIT_SECONDS", 1.0)
    for attempt, longest in [(0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (50, 60)]:
        waits = [grlo.endpoint._wait_seconds(attempt, asked=None) for _ in range(200)]
        assert longest / 2 <= min(w for w in waits if w is not None)
        assert max(w for w in waits if w is not None) <= longest
        assert len(set(waits)) > 100, "clients that wait equally long return together"
    with serve(lambda b, n: error(429, headers={"Retry-After": "3600"})) as server:
        [reply] = Endpoint(settings(server.url)).complete([ask("a")])
    assert isinstance(reply, Failure)
    assert len(server.bodies) == 1


def test_an_interruption_does_not_wait_for_a_busy_server():
    def busy_for_b(body, number):
        is_b = asked(body) == "b"
        return error(429, headers={"Retry-After": "60"}) if is_b else echo(body, number)

    def interrupt(*, done: int, total: int, tokens: int) -> None:
        raise KeyboardInterrupt

    with serve(busy_for_b) as server:
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            Endpoint(settings(server.url)).complete([ask("a"), ask("b")], progress=interrupt)
    assert time.monotonic() - start < 20


def test_a_server_that_stays_broken_leaves_failures_that_say_why():
    def broken_for_b(body, number):
        return error(500, "kaput") if asked(body) == "b" else echo(body, number)

    with serve(broken_for_b) as server:
        endpoint = Endpoint(settings(server.url))
        replies = endpoint.complete([ask("a"), ask("b"), ask("c")])
    assert texts(replies) == ["re: a", None, "re: c"]
    assert isinstance(replies[1], Failure)
    assert "HTTP 500" in replies[1].reason
    assert "kaput" in replies[1].reason
    assert endpoint.drain_usage().requests == 2 + 4, "one request and three repetitions"


@pytest.mark.parametrize(
    "body",
    [
        b"{not json",
        b"<html>gateway</html>",
        b"[]",
        b"null",
        b"{}",
        b'{"choices": []}',
        b'{"choices": [{}]}',
        b'{"choices": [{"message": {"content": 3}}]}',
        b'{"error": {"message": "overloaded"}}',
        b"\xff\xfe",
    ],
)
def test_a_reply_that_is_no_completion_is_repeated_and_then_a_failure(body: bytes):
    with serve(lambda b, n: Answer(body)) as server:
        [reply] = Endpoint(settings(server.url, retries=1)).complete([ask("a")])
    assert isinstance(reply, Failure)
    assert "no chat completion" in reply.reason
    assert len(server.bodies) == 2


def test_a_reply_without_text_is_a_failure_whose_tokens_were_paid():
    with serve(lambda b, n: completion(None, tokens=(7, 99), finish="length")) as server:
        endpoint = Endpoint(settings(server.url))
        [reply] = endpoint.complete([ask("a")])
    assert isinstance(reply, Failure)
    assert "length" in reply.reason
    assert endpoint.drain_usage() == Usage(requests=1, input_tokens=7, output_tokens=99)


def test_a_silent_server_times_out_and_is_asked_again():
    with serve(lambda b, n: replace(echo(b, n), delay_seconds=1.0 if n == 0 else 0)) as server:
        endpoint = Endpoint(settings(server.url, timeout_seconds=0.2))
        assert texts(endpoint.complete([ask("a")])) == ["re: a"]
    assert endpoint.drain_usage().requests == 2


def test_no_server_is_a_failure_and_many_in_a_row_end_the_run():
    with serve(echo) as server:
        url = server.url
    endpoint = Endpoint(settings(url, retries=1, concurrency=2))
    [reply] = endpoint.complete([ask("a")])
    assert isinstance(reply, Failure)
    assert "no connection" in reply.reason
    with pytest.raises(EndpointError, match=r"is down: 6 requests in a row.*base_url"):
        endpoint.complete([ask(str(i)) for i in range(100)])
    assert endpoint.drain_usage().requests < 40


def test_failures_between_successes_do_not_count_as_an_outage():
    def every_second(body, number):
        return error(500) if int(asked(body)) % 2 else echo(body, number)

    with serve(every_second) as server:
        endpoint = Endpoint(settings(server.url, retries=0, concurrency=1))
        replies = endpoint.complete([ask(str(i)) for i in range(40)])
    assert sum(isinstance(reply, Failure) for reply in replies) == 20


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (error(401, "bad key"), ["401", "TEST_KEY", "valid key"]),
        (error(403, "not for you"), ["403", "TEST_KEY"]),
        (error(404, "no such model"), ["404", "'m'", "endpoint.model", "base_url"]),
        (error(402, "pay"), ["402", "credit"]),
        (error(429, "quota", code="insufficient_quota"), ["429", "credit"]),
        (error(400, "unknown", code="model_not_found"), ["400", "setting"]),
        (error(400, "use the other", code="unsupported_parameter"), ["max_tokens_field"]),
        (error(400, "which?", param="model"), ["400", "model"]),
    ],
)
def test_what_no_request_can_pass_ends_the_run_at_once(answer: Answer, words: list[str]):
    with serve(lambda b, n: answer) as server, pytest.raises(EndpointError) as caught:
        Endpoint(settings(server.url)).complete([ask(str(i)) for i in range(1000)])
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(server.bodies) <= 4 + 1, "only what was under way"


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_refused_for_its_content_fails_alone_and_is_not_repeated(status: int):
    def refuses_b(body, number):
        return error(status, "too long") if asked(body) == "b" else echo(body, number)

    with serve(refuses_b) as server:
        replies = Endpoint(settings(server.url)).complete([ask("a"), ask("b")])
    assert texts(replies) == ["re: a", None]
    assert len(server.bodies) == 2


def test_a_403_after_replies_is_about_one_request():
    def moderates(body, number):
        return error(403, "flagged") if asked(body) == "b" else echo(body, number)

    with serve(moderates) as server:
        endpoint = Endpoint(settings(server.url))
        endpoint.complete([ask("a")])
        assert texts(endpoint.complete([ask("b"), ask("c")])) == [None, "re: c"]


def test_a_key_that_is_not_in_the_environment_is_missed_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("TEST_KEY")
    with pytest.raises(EndpointError, match="TEST_KEY is not set"):
        Endpoint(settings("http://127.0.0.1:9/v1"))


def test_a_server_without_keys_needs_none_and_one_that_wants_one_says_so(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serve(lambda b, n: echo(b, n) if n == 0 else error(401)) as server:
        endpoint = Endpoint(settings(server.url, api_key_env=""))
        assert texts(endpoint.complete([ask("a")])) == ["re: a"]
        with pytest.raises(EndpointError, match="api_key_env"):
            endpoint.complete([ask("b")])


def test_without_the_library_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(MissingExtraError, match="remote"):
        Endpoint(settings("http://127.0.0.1:9/v1"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": "api.openai.com/v1"}, "base_url must be an address"),
        ({"base_url": "http://user:pass@host/v1"}, "must hold no key"),
        ({"base_url": "https://host/v1?key=abc"}, "must hold no key"),
        ({"api_key_env": "sk-abc-123"}, "not a key"),
        ({"extra": {"stream": True}}, "stream"),
        ({"dollars_per_million_input": 1.0}, "together"),
        ({"temperature": -1.0}, "temperature"),
        ({"concurrency": 0}, "concurrency"),
    ],
)
def test_settings_that_cannot_work_or_hold_a_secret_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        settings("http://host/v1", **changes)


# The key ------------------------------------------------------------------------------------------


def test_the_key_is_in_no_error_log_reply_or_file_even_when_the_server_repeats_it(
    tmp_path, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    cached = {"cache": str(tmp_path / "cache"), "retries": 1}
    found: list[str] = []
    with serve(lambda b, n: completion(f"your key is {KEY}")) as server:
        endpoint = Endpoint(settings(server.url, **cached))
        found += [repr(reply) for reply in endpoint.complete([ask("a")])]
        found += [repr(endpoint), repr(vars(endpoint._cache)), repr(settings(server.url))]
    for answer in (error(400, KEY), error(500, KEY), Answer(KEY.encode()), error(418, KEY)):
        with serve(lambda b, n, answer=answer: answer) as server:
            endpoint = Endpoint(settings(server.url, **cached))
            found += [repr(reply) for reply in endpoint.complete([ask("b")])]
    for status in (401, 402, 403, 404):
        with serve(lambda b, n, status=status: error(status, f"Incorrect key {KEY}")) as server:
            with pytest.raises(EndpointError) as caught:
                Endpoint(settings(server.url, **cached)).complete([ask("c")])
            found += [repr(caught.value), repr(caught.value.__cause__)]
            assert caught.value.__suppress_context__, "a traceback would show the library's error"
    found += [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    out, err = capfd.readouterr()
    found += [out, err, caplog.text]
    assert "[key]" in "".join(found), "the server did repeat it"
    assert [text for text in found if KEY in text] == []


# The cache ----------------------------------------------------------------------------------------


def test_a_cached_reply_costs_nothing_and_survives_a_new_start(tmp_path):
    with serve(echo) as server:
        cached = settings(server.url, cache=str(tmp_path / "cache"))
        first = Endpoint(cached).complete([ask("a"), ask("ü \ud800")])
        again = Endpoint(cached)
        seen: list[int] = []
        second = again.complete(
            [ask("a"), ask("ü \ud800")],
            progress=lambda *, done, total, tokens: seen.append(tokens),
        )
    assert texts(first) == texts(second) == ["re: a", "re: ü ?"]
    assert [reply.is_cached for reply in second if isinstance(reply, Reply)] == [True, True]
    assert again.drain_usage() == Usage()
    assert seen == [0, 0]
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "n"},
        {"temperature": 0.5},
        {"temperature": "default"},
        {"seed": 1},
        {"max_tokens": 9},
        {"max_tokens_field": "max_completion_tokens"},
        {"extra": {"top_p": 0.9}},
    ],
)
def test_whatever_changes_a_reply_changes_its_place_in_the_cache(tmp_path, changes):
    with serve(echo) as server:
        cached = settings(server.url, cache=str(tmp_path))
        Endpoint(cached).complete([ask("a")])
        Endpoint(replace(cached, **changes)).complete([ask("a")])
        Endpoint(cached).complete([ChatRequest((Message("system", "a"),))])
        Endpoint(replace(cached, base_url=server.url + "/")).complete([ask("a")])
        assert len(server.bodies) == 4
        Endpoint(replace(cached, retries=9, timeout_seconds=1, concurrency=1)).complete([ask("a")])
    assert len(server.bodies) == 4, "what changes no reply is no part of the key"


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "binary", "list", "foreign"])
def test_a_damaged_file_is_asked_again_and_mended(tmp_path, damage: str):
    with serve(echo) as server:
        cached = settings(server.url, cache=str(tmp_path))
        Endpoint(cached).complete([ask("a")])
        [path] = tmp_path.rglob("*.json")
        whole = path.read_bytes()
        path.write_bytes(
            {
                "cut": whole[: len(whole) // 2],
                "empty": b"",
                "flipped": whole.replace(b"re: a", b"re: b"),
                "binary": b"\xff\x00",
                "list": b"[]",
                "foreign": b'{"reply": {"text": "re: b"}, "digest": "0"}',
            }[damage]
        )
        assert texts(Endpoint(cached).complete([ask("a")])) == ["re: a"]
        assert len(server.bodies) == 2
    assert path.read_bytes() == whole


def test_failures_are_not_kept(tmp_path):
    with serve(lambda b, n: error(400) if n == 0 else echo(b, n)) as server:
        endpoint = Endpoint(settings(server.url, cache=str(tmp_path)))
        assert texts(endpoint.complete([ask("a")])) == [None]
        assert texts(endpoint.complete([ask("a")])) == ["re: a"]


def test_many_writers_of_one_cache_leave_whole_files(tmp_path):
    with serve(echo) as server:
        cached = settings(server.url, cache=str(tmp_path), concurrency=8)
        requests = [ask(str(i)) for i in range(10)]
        results: list[list[str | None]] = []
        threads = [
            threading.Thread(
                target=lambda: results.append(texts(Endpoint(cached).complete(requests)))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        num_asked = len(server.bodies)
        assert texts(Endpoint(cached).complete(requests)) == [f"re: {i}" for i in range(10)]
        assert len(server.bodies) == num_asked
    assert results == [[f"re: {i}" for i in range(10)]] * 4
    assert list(tmp_path.rglob("*.partial")) == []


def test_a_cache_that_cannot_be_written_is_an_error_before_anything_is_asked(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EndpointError, match="cannot be written"):
        Endpoint(settings("http://127.0.0.1:9/v1", cache=str(tmp_path / "file")))


def test_a_run_that_is_killed_asks_only_the_rest_when_it_goes_on(tmp_path):
    code = f"""
import grlo.endpoint
from grlo.endpoint import ChatRequest, Endpoint, EndpointSettings
from grlo.types import Message
import sys
endpoint = Endpoint(EndpointSettings(base_url=sys.argv[1], model="m", api_key_env="TEST_KEY",
    concurrency=2, cache={str(tmp_path)!r}))
replies = endpoint.complete([ChatRequest((Message("user", str(i)),)) for i in range(40)])
print([reply.text for reply in replies], endpoint.drain_usage().requests)
"""
    with serve(lambda b, n: replace(echo(b, n), delay_seconds=0.02)) as server:
        command = [sys.executable, "-c", code, server.url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        while len(server.bodies) < 15 and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        kept = len(list(tmp_path.rglob("*.json")))
        assert 10 <= kept < 40
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
    said, num_requests = done.stdout.rsplit(" ", 1)
    assert json.loads(said.replace("'", '"')) == [f"re: {i}" for i in range(40)], done.stderr
    assert int(num_requests) == 40 - kept


def test_the_module_loads_without_torch_and_without_the_library():
    code = "import sys, grlo.endpoint; print([m for m in ('torch', 'openai') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "[]", result.stderr


def test_the_file_of_a_reply_says_what_was_asked(tmp_path: Path):
    with serve(echo) as server:
        Endpoint(settings(server.url, cache=str(tmp_path))).complete([ask("a")])
    [path] = tmp_path.rglob("*.json")
    row = json.loads(path.read_text())
    assert row["request"]["messages"] == [{"role": "user", "content": "a"}]
    assert row["reply"]["text"] == "re: a"
    assert row["reply"]["model"] == "m-of-today"


def test_what_was_begun_is_not_asked_again_and_is_counted_once():
    with serve(echo) as server:
        endpoint = Endpoint(settings(server.url))
        endpoint.begin([ask("a"), ask("b")])
        endpoint.begin([ask("c")])
        seen: list[tuple[int, int]] = []
        replies = endpoint.complete(
            [ask(text) for text in "dcba"],
            progress=lambda *, done, total, tokens: seen.append((done, total)),
        )
        assert texts(replies) == ["re: d", "re: c", "re: b", "re: a"]
        assert seen == [(4, 4)]
        assert len(server.bodies) == 4
        assert endpoint.drain_usage().requests == 4
        endpoint.complete([ask("a")])
        assert len(server.bodies) == 5, "a reply serves one call"


def test_replies_that_came_before_a_refusal_are_kept():
    refuses = True

    def refuses_b(body, number):
        if asked(body) == "b" and refuses:
            return replace(error(401), delay_seconds=0.2)
        return echo(body, number)

    with serve(refuses_b) as server:
        endpoint = Endpoint(settings(server.url))
        endpoint.begin([ask("z")])
        with pytest.raises(EndpointError, match="401"):
            endpoint.begin([ask("a"), ask("b")])
        refuses = False
        assert texts(endpoint.complete([ask(text) for text in "zab"])) == [
            "re: z",
            "re: a",
            "re: b",
        ]
        assert sorted(map(asked, server.bodies)) == ["a", "b", "b", "z"]


def test_what_is_asked_in_another_thread_ends_when_the_endpoint_is_closed(monkeypatch):
    monkeypatch.setattr(grlo.endpoint, "_FIRST_WAIT_SECONDS", 600.0)
    is_asked = threading.Event()

    def busy(body, number):
        is_asked.set()
        return error(503)

    with serve(busy) as server:
        endpoint = Endpoint(settings(server.url, retries=100))
        thread = threading.Thread(target=endpoint.begin, args=([ask("a"), ask("b")],), daemon=True)
        thread.start()
        assert is_asked.wait(timeout=60)
        endpoint.close()
        thread.join(timeout=60)
        assert not thread.is_alive()
