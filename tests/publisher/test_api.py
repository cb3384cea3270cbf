"""The HTTP API: right answers, one version per answer, bad input told so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from prometheus_client import REGISTRY

from features.sequences import CONTEXT_BIT, context_id
from ingest.runtime.errors import FreshetError
from publisher.snapshots import version_of
from tests.publisher.served import Server, publish, server
from tests.publisher.tiny import (
    ITEM_IDS,
    WATERMARK_MS,
    targets_record,
    tiny_tokens,
)
from tests.publisher.training import forward_logits

USER = 7
NUM_TOKENS = 20


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    publish(root, 1)
    return root


@pytest.fixture(scope="module")
def ready(root: Path) -> Iterator[Server]:
    with server(root, max_candidates=50, max_k=20, max_body_bytes=5_000) as running:
        running.live.load_latest()
        running.users.apply([targets_record(USER, tiny_tokens(0, NUM_TOKENS), offset=3)])
        yield running


def post(running: Server, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = running.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_rank_gives_the_training_forward_in_the_requests_order(ready: Server) -> None:
    candidates = [ITEM_IDS[9], ITEM_IDS[2], 5, ITEM_IDS[9]]
    answer = post(ready, "/rank", {"user_id": USER, "candidates": candidates})
    tokens = tiny_tokens(0, NUM_TOKENS)
    assert answer["time_ms"] == tokens["event_time_ms"].max()
    expected = forward_logits(tokens, np.array(candidates), answer["time_ms"], step=1).sigmoid()
    scores = torch.tensor([answer["scores"]["click"], answer["scores"]["like"]]).t()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=0)
    assert answer["candidates"] == candidates
    assert answer["num_unknown"] == 1
    assert answer["num_history_tokens"] == NUM_TOKENS
    assert (answer["version"], answer["step"], answer["positions"]) == (version_of(1), 1, {"0": 1})


def test_a_given_history_ranks_as_the_kept_one(ready: Server) -> None:
    kept = ready.client.get(f"/users/{USER}").json()
    body = {"user_id": USER, "candidates": ITEM_IDS[:5], "time_ms": WATERMARK_MS + 10**9}
    given = post(ready, "/rank", body | {"user_id": 404, "history": kept["tokens"]})
    assert given["scores"] == post(ready, "/rank", body)["scores"]


def test_the_user_endpoint_shows_the_newest_tokens_and_their_message(ready: Server) -> None:
    answer = ready.client.get(f"/users/{USER}", params={"limit": 4}).json()
    assert (answer["partition"], answer["offset"], answer["num_tokens"]) == (0, 3, NUM_TOKENS)
    newest = tiny_tokens(0, NUM_TOKENS)[-4:]
    assert [t["item_id"] for t in answer["tokens"]] == newest["item_id"].tolist()
    assert [t["actions"] for t in answer["tokens"]] == newest["actions"].tolist()


def test_an_unknown_user_is_ranked_from_the_start_at_the_watermark(ready: Server) -> None:
    answer = post(ready, "/rank", {"user_id": 404, "candidates": ITEM_IDS[:3]})
    assert answer["num_history_tokens"] == 0
    assert answer["time_ms"] == WATERMARK_MS + 1
    empty = np.empty(0, tiny_tokens(0, 1).dtype)
    expected = forward_logits(empty, np.array(ITEM_IDS[:3]), answer["time_ms"], step=1).sigmoid()
    torch.testing.assert_close(
        torch.tensor(answer["scores"]["click"]), expected[:, 0], atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("task", ["click", "like"])
def test_recommend_is_sorted_by_the_task_and_leaves_out_what_was_seen(
    ready: Server, task: str
) -> None:
    answer = post(ready, "/recommend", {"user_id": USER, "k": 20, "task": task})
    scores = [item["scores"][task] for item in answer["items"]]
    assert scores == sorted(scores, reverse=True)
    items = {item["item_id"] for item in answer["items"]}
    assert len(items) == 20
    assert items <= set(ITEM_IDS)
    assert not items & set(tiny_tokens(0, NUM_TOKENS)["item_id"].tolist())


def test_recommend_may_show_what_was_seen_and_ranks_it_as_rank_does(root: Path) -> None:
    with server(root, shortlist=10_000, max_k=10_000) as running:
        running.live.load_latest()
        running.users.apply([targets_record(USER, tiny_tokens(0, NUM_TOKENS))])
        everything = {"user_id": USER, "k": 10_000, "exclude_seen": False}
        answer = post(running, "/recommend", everything)
        assert {item["item_id"] for item in answer["items"]} == set(ITEM_IDS)
        ranked = post(running, "/rank", {"user_id": USER, "candidates": ITEM_IDS})["scores"][
            "click"
        ]
        by_item = dict(zip(ITEM_IDS, ranked, strict=True))
        for item in answer["items"]:
            assert item["scores"]["click"] == pytest.approx(by_item[item["item_id"]], abs=1e-5)


def test_an_empty_history_gets_recommendations(ready: Server) -> None:
    answer = post(ready, "/recommend", {"user_id": 404, "k": 3, "history": []})
    assert len(answer["items"]) == 3


def test_a_feature_of_the_user_may_stand_in_a_given_history(ready: Server) -> None:
    context = {"item_id": context_id("country", "DE"), "event_time_ms": 4, "actions": CONTEXT_BIT}
    body = {"user_id": 404, "candidates": [ITEM_IDS[0]], "history": [context, GIVEN]}
    assert post(ready, "/rank", body)["num_history_tokens"] == 2


def test_items_without_a_row_are_counted(ready: Server) -> None:
    name = "freshet_serving_fallback_rows_total"
    before = REGISTRY.get_sample_value(name) or 0.0
    post(ready, "/rank", {"user_id": 404, "candidates": [1, 2, ITEM_IDS[0]]})
    assert REGISTRY.get_sample_value(name) == before + 2


GIVEN = {"item_id": 1, "event_time_ms": 5}
BAD: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("no candidates", "/rank", {"user_id": 1, "candidates": []}, 422, "candidates"),
    ("too many", "/rank", {"user_id": 1, "candidates": [1] * 51}, 422, "51 asked, 50 allowed"),
    ("missing field", "/rank", {"user_id": 1}, 422, "candidates"),
    ("unknown field", "/rank", {"user_id": 1, "candidates": [1], "itms": 1}, 422, "itms"),
    ("negative id", "/rank", {"user_id": 1, "candidates": [-1]}, 422, "candidates.0"),
    ("id too large", "/rank", {"user_id": 2**63, "candidates": [1]}, 422, "user_id"),
    ("text id", "/rank", {"user_id": "1", "candidates": [1]}, 422, "user_id"),
    ("true id", "/rank", {"user_id": True, "candidates": [1]}, 422, "user_id"),
    ("time", "/rank", {"user_id": 1, "candidates": [1], "time_ms": -1}, 422, "time_ms"),
    ("actions", "/rank", {"user_id": 1, "candidates": [1], "history": [GIVEN | {"actions": 2**32}]},
     422, "history.0.actions"),
    ("history backwards", "/rank",
     {"user_id": 1, "candidates": [1], "history": [GIVEN, GIVEN | {"event_time_ms": 4}]},
     422, "back in time"),
    ("negative item", "/rank",
     {"user_id": 1, "candidates": [1], "history": [GIVEN | {"item_id": -5}]}, 422, "negative id"),
    ("context of an item", "/rank",
     {"user_id": 1, "candidates": [1], "history": [GIVEN | {"actions": CONTEXT_BIT}]},
     422, "context token out of place"),
    ("unknown task", "/recommend", {"user_id": USER, "task": "buy"}, 422, "click, like"),
    ("k too large", "/recommend", {"user_id": USER, "k": 21}, 422, "21 asked, 20 allowed"),
    ("k of 0", "/recommend", {"user_id": USER, "k": 0}, 422, "k"),
    ("unknown user", "/recommend", {"user_id": 404}, 404, "history"),
    ("too large", "/rank", {"user_id": 1, "candidates": [10**15] * 400}, 413, "5000 allowed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status", "told"), [b[1:] for b in BAD], ids=[b[0] for b in BAD]
)
def test_a_bad_request_is_told_what_is_wrong(
    ready: Server, path: str, body: dict[str, Any], status: int, told: str
) -> None:
    answer = ready.client.post(path, json=body)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "detail", "hint"}
    assert told in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("body", [b"{", b"", b"[1", b'{"user_id": NaN?}', b"\xff\xfe{}"])
def test_malformed_json_is_a_client_error(ready: Server, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = ready.client.post("/rank", content=body, headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json().keys() == {"error", "detail", "hint"}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/users/404", 404), ("/users/x", 422), ("/users/-1", 422), ("/nowhere", 404), ("/rank", 405)],
)
def test_a_bad_path_is_told_so(ready: Server, path: str, status: int) -> None:
    answer = ready.client.get(path)
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "detail", "hint"}


def test_without_a_version_everything_that_needs_one_says_503(tmp_path: Path) -> None:
    with server(tmp_path) as running:
        running.live.load_latest()
        assert running.client.get("/livez").status_code == 200
        assert running.client.get("/versions").json() == {"versions": []}
        for path in ("/readyz", "/version"):
            answer = running.client.get(path)
            assert answer.status_code == 503
            assert answer.headers["Retry-After"]
        body = {"user_id": 1, "candidates": [1]}
        assert running.client.post("/rank", json=body).status_code == 503
        assert running.client.post("/recommend", json={"user_id": 1}).status_code == 503


def test_ready_means_a_version_and_histories_up_to_date(root: Path) -> None:
    with server(root, caught_up=False) as running:
        running.live.load_latest()
        assert running.client.get("/readyz").status_code == 503
    with server(root) as running:
        running.live.load_latest()
        assert running.client.get("/readyz").json()["version"] == version_of(1)


def test_more_requests_than_may_wait_are_sent_away_at_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(*args: object) -> None:
        entered.set()
        assert leave.wait(30)
        raise FreshetError("slow")

    monkeypatch.setattr("publisher.serving.answers.rank", slow)
    with server(root, max_waiting=1) as running, ThreadPoolExecutor(1) as clients:
        running.live.load_latest()
        body = {"user_id": 1, "candidates": [1]}
        first = clients.submit(running.client.post, "/rank", json=body)
        assert entered.wait(30)
        assert running.client.post("/rank", json=body).status_code == 503
        leave.set()
        assert first.result().status_code == 500


def test_a_failed_load_keeps_the_live_version_and_is_counted(tmp_path: Path) -> None:
    publish(tmp_path, 1)
    name = "freshet_serving_load_failures_total"
    with server(tmp_path) as running:
        running.live.load_latest()
        publish(tmp_path, 2)
        table = tmp_path / "store" / "freshet" / version_of(2) / "table.safetensors"
        table.write_bytes(table.read_bytes()[:-1])
        before = REGISTRY.get_sample_value(name) or 0.0
        with pytest.raises(FreshetError, match=r"table\.safetensors"):
            running.live.load_latest()
        assert REGISTRY.get_sample_value(name) == before + 1
        assert running.client.get("/version").json()["version"] == version_of(1)


def test_an_older_version_never_replaces_the_live_one(tmp_path: Path) -> None:
    for step in (1, 2):
        publish(tmp_path, step)
    with server(tmp_path) as running:
        for step in (2, 1, 2):
            running.live.load(version_of(step))
        (record,) = running.client.get("/versions").json()["versions"]
        assert record["version"] == version_of(2)
        assert record["positions"] == {"0": 2}
        assert record["watermark_ms"] == WATERMARK_MS + 2
        assert record["quality"]["click"]["ne_lifetime"] == 0.9
        assert record["loaded_at_ms"] > 0


def test_swaps_under_load_fail_no_request_and_mix_no_versions(tmp_path: Path) -> None:
    steps = [1, 2, 3, 4]
    candidates = ITEM_IDS[:10]
    tokens = tiny_tokens(0, NUM_TOKENS)
    time_ms = WATERMARK_MS + 10**9
    expected = {
        version_of(step): forward_logits(tokens, np.array(candidates), time_ms, step).sigmoid()[
            :, 0
        ]
        for step in steps
    }
    publish(tmp_path, steps[0])
    done = threading.Event()
    with server(tmp_path, micro_batch=3) as running, ThreadPoolExecutor(4) as clients:
        running.live.load_latest()
        running.users.apply([targets_record(USER, tokens)])
        body = {"user_id": USER, "candidates": candidates, "time_ms": time_ms}

        def ask() -> list[dict[str, Any]]:
            answers = []
            while not done.is_set():
                answers.append(post(running, "/rank", body))
            return [*answers, post(running, "/rank", body)]

        asking = [clients.submit(ask) for _ in range(4)]
        for step in steps[1:]:
            publish(tmp_path, step)
            running.live.load_latest()
        done.set()
        answers = [answer for client in asking for answer in client.result()]
    assert {answer["version"] for answer in answers} >= {version_of(steps[-1])}
    for answer in answers:
        assert version_of(answer["step"]) == answer["version"]
        assert answer["positions"] == {"0": answer["step"]}
        scores = torch.tensor(answer["scores"]["click"])
        torch.testing.assert_close(scores, expected[answer["version"]], atol=1e-5, rtol=0)


def test_metrics_tell_the_live_version(ready: Server) -> None:
    text = ready.client.get("/metrics").text
    for name in ("version_step", "swaps_total", "users", "request_duration_seconds_count"):
        assert f"freshet_serving_{name}" in text


def test_the_tables_fallback_row_scores_unknown_items_alike(ready: Server) -> None:
    answer = post(ready, "/rank", {"user_id": 404, "candidates": [1, 2]})
    one, other = answer["scores"]["like"]
    assert one == pytest.approx(other, abs=1e-6)
