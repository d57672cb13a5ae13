"""Every route with good and bad input, through the whole application."""

from __future__ import annotations

import json
import re
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recbole_siger.recommend.recommender import Recommender
from tests.conftest import WIDTHS, make_experiment
from tests.unit.serve.conftest import N_ITEMS, TOKEN, Client, draw_run

SEEN_OF_U3 = {"i1", "i3", "i4", "i5", "i6"}


def items_of(answer: Any) -> list[str]:
    return [row["item"] for row in answer.json()["items"]]


def refused(answer: Any, status: int, part: str) -> None:
    """Hold that an answer is one line of JSON with a status and a text, and shows no Python."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert part in error
    assert "\n" not in error
    assert "Traceback" not in error


# ---- recommend


def test_a_known_user_gets_the_scores_of_the_model(client: Any, run_dir: Path) -> None:
    answer = client.get("/recommend?user=u3&k=5")
    assert answer.status_code == 200
    want = Recommender.load(run_dir).recommend(["u3"], 5)
    assert answer.json() == {
        "user": "u3",
        "source": "user",
        "items": [
            {"item": item, "score": pytest.approx(score), "rank": rank}
            for item, score, rank in zip(want["item"], want["score"], [1, 2, 3, 4, 5], strict=True)
        ],
        "ignored": [],
    }
    assert not set(items_of(client.get(f"/recommend?user=u3&k={N_ITEMS}"))) & SEEN_OF_U3
    every = items_of(client.get(f"/recommend?user=u3&k={N_ITEMS}&exclude_seen=false"))
    assert sorted(every) == sorted(f"i{n}" for n in range(1, N_ITEMS + 1))


def test_an_unknown_user_is_folded_in(client: Any, run_dir: Path) -> None:
    want = Recommender.load(run_dir).fold_in(["i7", "i11"], 5)
    for query in ("user=new&history=i7,i11", "history=i7&history=i11", "user=new&history=i7,zz,i11"):
        answer = client.get(f"/recommend?{query}&k=5")
        assert answer.json()["source"] == "history"
        assert items_of(answer) == want["item"].tolist()
        assert [row["score"] for row in answer.json()["items"]] == pytest.approx(want["score"].tolist())
        assert answer.json()["ignored"] == (["zz"] if "zz" in query else [])
    assert answer.json()["user"] == "new"
    seen = items_of(client.get(f"/recommend?history=i7,i11&k={N_ITEMS}&exclude_seen=false"))
    assert {"i7", "i11"} <= set(seen)


@pytest.mark.parametrize("query", ["user=new", "", "user=new&history=zz", "user="])
def test_an_unknown_user_without_a_history_gets_popular_items(query: str, client: Any) -> None:
    answer = client.get(f"/recommend?{query}&k=3").json()
    assert answer["source"] == "popular"
    assert answer["items"][0] == {"item": "i1", "score": 29.0, "rank": 1}
    assert [row["rank"] for row in answer["items"]] == [1, 2, 3]


def test_only_candidates_are_recommended(client: Any) -> None:
    for query in ("user=u3", "user=new&history=i9", "user=new"):
        answer = client.get(f"/recommend?{query}&candidates=i7,i8,zz,i8")
        assert set(items_of(answer)) == {"i7", "i8"}
        assert answer.json()["ignored"] == ["zz"]
        assert items_of(client.get(f"/recommend?{query}&candidates=zz")) == []
    assert items_of(client.get("/recommend?user=u3&candidates=i3,i7")) == ["i7"]
    assert items_of(client.get("/recommend?user=u3&candidates=")) == []


def test_the_history_of_a_known_user_is_left_out_too(client: Any) -> None:
    first = items_of(client.get("/recommend?user=u3&k=4"))
    answer = client.get(f"/recommend?user=u3&k=3&history={first[0]}")
    assert answer.json()["source"] == "user"
    assert items_of(answer) == first[1:]
    assert items_of(client.get(f"/recommend?user=u3&k=3&history={first[0]}&candidates={first[0]}")) == []


def test_the_body_takes_numbers_and_commas(client: Any) -> None:
    body = {"user": "u3", "k": 5}
    assert client.post("/recommend", json=body).json() == client.get("/recommend?user=u3&k=5").json()
    answer = client.post("/recommend", json={"user": 7, "history": ["i7", "a,b", 5], "candidates": ["i8"]})
    assert answer.json()["user"] == "7"
    assert answer.json()["ignored"] == ["a,b", "5"]
    assert items_of(answer) == ["i8"]


def test_details_are_titles_and_pictures(make_client: Client, run_dir: Path) -> None:
    (run_dir / "images").mkdir()
    (run_dir / "images" / "i7.png").write_bytes(b"\x89PNG")
    client = make_client()
    rows = client.get("/recommend?user=new&candidates=i7,i8&details=1").json()["items"]
    found = {row["item"]: (row["title"], row["image"]) for row in rows}
    assert found == {"i7": ("<b>Thing</b> 7", True), "i8": (None, False)}
    picture = client.get("/images/i7")
    assert (picture.content, picture.headers["content-type"]) == (b"\x89PNG", "image/png")
    assert picture.headers["x-content-type-options"] == "nosniff"
    for item in ("i8", "zz", "..%2F..%2Fconfig.yaml", "i7.png", "%00"):
        assert client.get(f"/images/{item}").status_code == 404
    assert client.get("/images/../config.yaml").status_code == 404


@pytest.mark.parametrize(
    ("path", "status", "part"),
    [
        ("/recommend?user=u3&k=0", 422, "k: Input should be greater than or equal to 1"),
        ("/recommend?user=u3&k=1001", 422, "k=1001: expected an integer in [1, 1000]"),
        ("/recommend?user=u3&k=ten", 422, "k: Input should be a valid integer"),
        ("/recommend?user=u3&K=5", 422, "K: Extra inputs are not permitted"),
        ("/recommend?user=u3&exclude_seen=perhaps", 422, "exclude_seen: Input should be a valid boolean"),
        ("/recommend?user=" + "u" * 201, 422, "user: an id has more than 200 characters"),
        ("/recommend?history=" + "i" * 201, 422, "history: an id has more than 200 characters"),
        ("/recommend?history=" + "i1," * 1001, 422, "history: 1,001 ids; at most 1,000"),
        ("/recommend?candidates=" + "i1," * 1001, 422, "candidates: 1,001 ids; at most 1,000"),
        ("/similar", 422, "item: Field required"),
        ("/similar?item=zz", 404, "item='zz': is not in the run"),
        ("/similar?item=i1&k=-1", 422, "k: Input should be greater than or equal to 1"),
        ("/nowhere", 404, "no such route; see /docs"),
        ("/new-items", 405, "this route has no such method; see /docs"),
        ("/recommend/../../etc/passwd", 404, "no such route"),
    ],
)
def test_bad_queries(path: str, status: int, part: str, client: Any) -> None:
    refused(client.get(path), status, part)


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        (b"", 422, "Field required"),
        (b"{", 422, "body: is not JSON: Expecting property name enclosed in double quotes at character 1"),
        (b"[]", 422, "body: expected a JSON object"),
        (b"\xff", 400, "body: cannot be read; write JSON in UTF-8"),
        (b"[" * 100_000, 400, "body: cannot be read; write JSON in UTF-8"),
        (b"null", 422, "body: expected a JSON object"),
        (b'{"user": "\\ud800"}', 422, "user: Input should be text without surrogates"),
        (b'{"history": ["i1", "\\udfff"]}', 422, "history.1: Input should be text without surrogates"),
        (b'{"k": "5"}', 422, "k: Input should be a valid integer"),
        (b'{"k": 5.5}', 422, "k: Input should be a valid integer"),
        (b'{"k": true}', 422, "k: Input should be a valid integer"),
        (b'{"k": 1e400}', 422, "k: Input should be a valid integer"),
        (b'{"user": 1.5}', 422, "user: Input should be a valid string"),
        (b'{"user": ["u3"]}', 422, "user: Input should be a valid string"),
        (b'{"history": "i1"}', 422, "history: Input should be a valid list"),
        (b'{"history": [null]}', 422, "history.0: Input should be a valid string"),
        (b'{"users": "u3"}', 422, "users: Extra inputs are not permitted"),
        (b'{"exclude_seen": "no"}', 422, "exclude_seen: Input should be a valid boolean"),
    ],
)
def test_bad_bodies(body: bytes, status: int, part: str, client: Any) -> None:
    refused(
        client.post("/recommend", content=body, headers={"content-type": "application/json"}), status, part
    )


def test_a_body_that_is_not_called_json_is_refused(client: Any) -> None:
    """A form of another site can send text without asking; it cannot send this type."""
    answer = client.post("/recommend", content=b'{"user": "u3"}', headers={"content-type": "text/plain"})
    refused(answer, 422, "body: expected a JSON object and the header `Content-Type: application/json`")


# ---- similar


def test_similar_items(client: Any, run_dir: Path) -> None:
    answer = client.get("/similar?item=i5&k=4")
    want = Recommender.load(run_dir).similar_items(["i5"], 4)
    assert answer.json()["item"] == "i5"
    assert items_of(answer) == want["similar"].tolist()
    assert [row["score"] for row in answer.json()["items"]] == pytest.approx(want["score"].tolist())
    assert [row["rank"] for row in answer.json()["items"]] == [1, 2, 3, 4]


def test_a_model_without_vectors_has_no_similar_items(make_client: Client, tmp_path: Path) -> None:
    client = make_client(draw_run(tmp_path / "pop", model="Pop", kind="item_score"))
    refused(client.get("/similar?item=i5"), 409, "Pop has no embeddings of items")
    assert str(tmp_path) not in client.get("/similar?item=i5").text
    assert client.get("/recommend?user=u3&k=2").json()["source"] == "user"
    assert client.get("/recommend?history=i3&k=2").json()["source"] == "history"


# ---- new items


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    experiment = make_experiment(tmp_path_factory.mktemp("trained"), "VBPR")
    experiment.begin()
    experiment.train()
    return experiment.run.path


def new_features(n: int, seed: int = 5) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(n, WIDTHS[name])).round(3).tolist() for name in ("image", "text")}


def test_new_items_are_recommended_like_those_of_add_items(make_client: Client, trained: Path) -> None:
    client, features = make_client(trained), new_features(2)
    before = client.get("/recommend?user=u03&k=5").json()
    answer = client.post("/new-items", json={"ids": ["n1", 17], "features": features})
    assert answer.json() == {"added": ["n1", "17"], "n_new_items": 2}
    extended = Recommender.load(trained).add_items(
        {m: np.array(x) for m, x in features.items()}, ["n1", "17"]
    )
    want = extended.recommend(["u03"], 2, candidates=["n1", "17"])
    found = client.get("/recommend?user=u03&candidates=n1,17")
    assert items_of(found) == want["item"].tolist()
    assert [row["score"] for row in found.json()["items"]] == pytest.approx(want["score"].tolist())
    old = [f"i{n:02}" for n in range(22)]
    again = client.post("/recommend", json={"user": "u03", "k": 5, "candidates": old}).json()
    assert again == before
    assert client.get("/similar?item=n1&k=3").status_code == 200
    assert client.get("/recommend?history=n1&k=3").json()["source"] == "history"
    assert (
        client.post("/new-items", json={"ids": ["n3"], "features": new_features(1)}).json()["n_new_items"]
        == 3
    )
    assert client.get("/run").json()["n_new_items"] == 3
    assert "recbole_siger_new_items 3.0" in client.get("/metrics").text
    refused(
        client.post("/new-items", json={"ids": ["n1"], "features": new_features(1)}),
        409,
        "1 of 1 new item ids are in the run: 'n1'",
    )


@pytest.mark.parametrize("options", [{"seed": 11}, {"embedding_size": 3}])
def test_new_items_are_refused_after_another_run_took_the_folder(
    options: dict[str, Any], make_client: Client, trained: Path, tmp_path: Path
) -> None:
    live = shutil.copytree(trained, tmp_path / "live")
    client = make_client(live)
    other = make_experiment(tmp_path / "other", "VBPR", **options)
    other.begin()
    other.train()
    live.rename(tmp_path / "old")
    other.run.path.rename(live)
    answer = client.post("/new-items", json={"ids": ["n1"], "features": new_features(1)})
    refused(answer, 422, "has another run since it was opened: open the folder again")
    assert client.get("/run").json()["n_new_items"] == 0


def changed(**changes: Any) -> dict[str, Any]:
    return {"ids": ["x"], "features": new_features(1), **changes}


BAD_ROWS = [[1.0] * WIDTHS["text"]]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (changed(ids=[]), "ids: List should have at least 1 item"),
        (changed(ids=["x", "y"]), "have the shape"),
        (changed(ids=["a", "a"], features=new_features(2)), "an id is empty or repeated"),
        (changed(ids=[""]), "an id needs printable characters"),
        (changed(ids=["a\tb"]), "an id needs printable characters"),
        (changed(ids=["x" * 201]), "ids: an id has more than 200 characters"),
        (changed(ids=[1.5]), "ids.0: Input should be a valid string"),
        (changed(features={"text": BAD_ROWS}), "the run needs ['image', 'text']"),
        (changed(features={**new_features(1), "audio": [[1.0]]}), "the run needs ['image', 'text']"),
        (
            changed(features={"text": BAD_ROWS, "image": [[1.0] * 7]}),
            "'image' have the shape (1, 7); expected (1, 11)",
        ),
        (changed(features={"text": BAD_ROWS, "image": [[1.0] * 11, [1.0]]}), "rows of different lengths"),
        (changed(features={"text": BAD_ROWS, "image": [[1e39] * 11]}), "NaN or infinite"),
        (
            changed(features={"text": BAD_ROWS, "image": [["1.0"] * 11]}),
            "features.image.0.0: Input should be a valid number",
        ),
        (
            changed(features={"text": BAD_ROWS, "image": [[True] * 11]}),
            "features.image.0.0: Input should be a valid number",
        ),
        (
            changed(features={"text": BAD_ROWS, "image": "model.pkl"}),
            "features.image: Input should be a valid list",
        ),
        (changed(path="/etc/passwd"), "path: Extra inputs are not permitted"),
    ],
)
def test_bad_new_items(body: Any, part: str, make_client: Client, trained: Path) -> None:
    client = make_client(trained)
    answer = client.post("/new-items", json=body)
    refused(answer, 422, part)
    assert str(trained.parent) not in answer.text
    assert client.get("/run").json()["n_new_items"] == 0


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_not_finite(number: str, make_client: Client, trained: Path) -> None:
    text = json.dumps(changed()).replace("[[", f"[[{number}, ", 1)
    answer = make_client(trained).post(
        "/new-items", content=text, headers={"content-type": "application/json"}
    )
    refused(answer, 422, "features.image.0.0: Input should be a finite number")


def test_new_items_have_a_limit_and_need_a_model_of_content(make_client: Client, trained: Path) -> None:
    client = make_client(trained, max_new_items=2)
    body = {"ids": ["a", "b", "c"], "features": new_features(3)}
    refused(client.post("/new-items", json=body), 409, "3 new items would be in memory; at most 2")
    refused(make_client().post("/new-items", json=changed()), 422, "a new item cannot be scored")


# ---- facts, health, metrics, pages


def test_facts(client: Any) -> None:
    facts = client.get("/run").json()
    assert (facts["run"], facts["model"], facts["dataset"]) == ("drawn-run", "LightGCN", "drawn")
    assert (facts["n_users"], facts["n_items"], facts["n_titles"]) == (29, N_ITEMS, 12)
    assert facts["example_users"][:2] == ["u1", "u2"]
    assert facts["limits"]["max_k"] == 1000
    assert facts["last_reload"] is None


def test_metrics_count_requests_by_route_and_status(client: Any) -> None:
    for path in ("/recommend?user=u3", "/recommend?user=new", "/recommend?k=0", "/images/zz", "/nowhere/x"):
        client.get(path)
    text = client.get("/metrics").text
    assert 'recbole_siger_requests_total{route="/recommend",status="200"} 2.0' in text
    assert 'recbole_siger_requests_total{route="/recommend",status="422"} 1.0' in text
    assert 'recbole_siger_requests_total{route="/images",status="404"} 1.0' in text
    assert 'recbole_siger_requests_total{route="other",status="404"} 1.0' in text
    assert 'recbole_siger_request_seconds_count{route="/recommend"} 3.0' in text
    assert 'recbole_siger_recommendations_total{source="popular"} 1.0' in text
    assert "recbole_siger_requests_in_flight 1.0" in text  # this one
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) .*|\w+(\{[^}]*\})? [0-9.e+-]+", line), line


def test_the_pages_load_nothing_from_elsewhere(client: Any) -> None:
    for path in ("/", "/docs"):
        page = client.get(path)
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert re.findall(r"(?:https?:)?//[\w.-]+", page.text) == []
        assert "<script src" not in page.text
    described = client.get("/docs").text
    spec = client.get("/openapi.json").json()
    for route, methods in spec["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {route}</code>" in described
    assert set(spec["paths"]) == {
        *("/recommend", "/similar", "/images/{item}", "/new-items", "/reload", "/run", "/health", "/metrics")
    }


# ---- reload


def test_reload_takes_the_newest_complete_run(make_client: Client, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    draw_run(runs / "first", seed=3)
    client = make_client(runs, token=TOKEN)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    first = client.get("/recommend?user=u3").json()
    unchanged = {"status": "unchanged", "run": "first", "error": None, "new_items_dropped": 0}
    assert client.post("/reload").json() == unchanged
    second = draw_run(runs / "second", seed=4)
    assert client.post("/reload").json() == {**unchanged, "status": "reloaded", "run": "second"}
    now = client.get("/recommend?user=u3").json()
    assert now != first
    assert (
        items_of(client.get("/recommend?user=u3"))
        == Recommender.load(second).recommend(["u3"])["item"].tolist()
    )
    broken = draw_run(runs / "third", seed=5)
    (broken / "seen.safetensors").write_bytes(b"damaged")
    answer = client.post("/reload")
    assert answer.status_code == 500
    assert (answer.json()["status"], answer.json()["run"]) == ("failed", "second")
    assert "third/seen.safetensors: damaged" in answer.json()["error"]
    assert str(tmp_path) not in answer.text
    assert client.get("/recommend?user=u3").json() == now
    assert client.get("/run").json()["last_reload"] == answer.json()
    text = client.get("/metrics").text
    for status in ("reloaded", "unchanged", "failed"):
        assert f'recbole_siger_reloads_total{{status="{status}"}} 1.0' in text


def test_reload_needs_a_server_with_a_token(client: Any) -> None:
    refused(client.post("/reload"), 403, "/reload requires a server with a token")


def test_reload_drops_new_items_and_says_how_many(make_client: Client, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(trained)
    client = make_client(tmp_path / "current", token=TOKEN)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    client.post("/new-items", json=changed())
    assert client.post("/reload").json()["status"] == "unchanged"
    assert client.get("/run").json()["n_new_items"] == 1
    (tmp_path / "next").symlink_to(draw_run(tmp_path / "other"))
    (tmp_path / "next").replace(tmp_path / "current")
    assert client.post("/reload").json()["new_items_dropped"] == 1
    assert client.get("/run").json()["model"] == "LightGCN"


# ---- token, origin, limits


def test_a_token_protects_all_routes_that_show_the_run(make_client: Client) -> None:
    client = make_client(token=TOKEN)
    open_paths = ["/", "/docs", "/openapi.json", "/health"]
    closed = ["/run", "/recommend?user=u3", "/similar?item=i1", "/metrics", "/images/i1", "/nowhere"]
    for path in open_paths:
        assert client.get(path).status_code == 200
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": TOKEN},
        {"authorization": f"Bearer {TOKEN}x"},
    ):
        for path in closed:
            answer = client.get(path, headers=headers)
            refused(answer, 401, "Authorization: Bearer TOKEN")
            assert answer.headers["www-authenticate"] == "Bearer"
            assert TOKEN not in answer.text
    good = {"authorization": f"Bearer {TOKEN}", "host": "any.example.org"}
    assert client.get("/recommend?user=u3", headers=good).status_code == 200


def test_without_a_token_only_names_of_this_machine_are_answered(make_client: Client) -> None:
    client = make_client()
    for host in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert client.get("/run", headers={"host": host}).status_code == 200
    for host in ("evil.example.org", "127.0.0.1.example.org:8000", "", "[::2]"):
        refused(client.get("/run", headers={"host": host}), 421, "Host: is not this machine")


def test_a_page_of_another_site_cannot_change_the_server(make_client: Client) -> None:
    client = make_client(token=TOKEN)
    client.headers["authorization"] = f"Bearer {TOKEN}"
    for origin in ("https://evil.example.org", "null", "http://127.0.0.1:9000"):
        refused(client.post("/reload", headers={"origin": origin}), 403, "Origin")
    assert client.post("/reload", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    assert (
        "access-control-allow-origin" not in client.get("/run", headers={"origin": "https://x.org"}).headers
    )


def test_a_body_has_a_limit(make_client: Client) -> None:
    client = make_client(max_body_bytes=2048)
    body = json.dumps({"user": "u" * 3000}).encode()
    headers = {"content-type": "application/json"}
    refused(client.post("/recommend", content=body, headers=headers), 413, "body: at most 2,048 bytes")
    parts = (body[start : start + 100] for start in range(0, len(body), 100))  # chunked, without a length
    refused(client.post("/recommend", content=parts, headers=headers), 413, "body: at most 2,048 bytes")
    small = (part for part in (b'{"user": ', b'"u3"}'))
    assert client.post("/recommend", content=small, headers=headers).status_code == 200


def test_too_many_requests_at_a_time(make_client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    client = make_client(max_requests=1)
    service, inside, go = client.server.service, threading.Event(), threading.Event()
    recommend = service.recommend

    def slow(*arguments: Any, **options: Any) -> Any:
        inside.set()
        assert go.wait(30)
        return recommend(*arguments, **options)

    monkeypatch.setattr(service, "recommend", slow)
    answers: list[Any] = []
    first = threading.Thread(target=lambda: answers.append(client.get("/recommend?user=u3")))
    first.start()
    assert inside.wait(30)
    second = client.get("/health")
    go.set()
    first.join()
    refused(second, 503, "too many requests")
    assert second.headers["retry-after"] == "1"
    assert answers[0].status_code == 200


def test_an_unexpected_error_is_logged_and_hidden(
    client: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret of the server")

    monkeypatch.setattr(client.server.service, "facts", fail)
    answer = client.get("/run")
    refused(answer, 500, "internal error")
    assert "secret" not in answer.text
    assert "secret of the server" in caplog.text
