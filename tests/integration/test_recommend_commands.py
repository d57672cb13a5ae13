"""The commands that use a finished run: what they print and write."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from recbole_siger import cli
from recbole_siger.errors import UserError
from recbole_siger.recommend import recommender as recommender_module
from recbole_siger.recommend import writing
from recbole_siger.recommend.export import FORMATS, export
from recbole_siger.recommend.recommender import Recommender
from recbole_siger.recommend.writing import write_recommendations
from tests.conftest import N_ITEMS, N_USERS, WIDTHS, make_experiment, make_toy


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recommend")
    make_toy().write(folder / "dataset" / "toy")
    lines = ["item_id\ttitle", *(f"i{i:02}\tThing {i}" for i in range(N_ITEMS - 1))]
    (folder / "dataset" / "toy" / "items.tsv").write_text("\n".join(lines) + "\n")
    experiment = make_experiment(folder, "SIGER")
    experiment.begin()
    experiment.train()
    shutil.rmtree(folder / "dataset")
    return experiment.run.path


def call(*words: object) -> int:
    return cli.main([str(word) for word in words])


def test_recommend_writes_the_same_in_every_format(run: Path, tmp_path: Path, capsys) -> None:
    want = Recommender.load(run).recommend("all", 3)
    for suffix in (".csv", ".jsonl", ".parquet"):
        out = tmp_path / f"recs{suffix}"
        assert call("recommend", run, "--users=all", "--k=3", f"--out={out}") == 0
        assert capsys.readouterr().out == f"{out}: {N_USERS - 1} users\n"
        read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
        found = read[suffix](out) if suffix in read else pd.read_json(out, lines=True)
        assert found["user"].tolist() == want["user"].tolist()
        assert found["item"].tolist() == want["item"].tolist()
        assert found["rank"].tolist() == want["rank"].tolist()
        assert np.allclose(found["score"], want["score"], rtol=1e-6, atol=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.csv", "recs.jsonl", "recs.parquet"]


def test_recommend_prints_a_few_users_with_titles(run: Path, tmp_path: Path, capsys) -> None:
    ids = tmp_path / "users.txt"
    ids.write_text("u03\nu05\n")
    assert call("recommend", run, f"--users={ids}", "--k=2", "--candidates=i01,i02,i04") == 0
    text = capsys.readouterr().out
    assert text.count("u03") == text.count("u05") == 2
    assert "Thing" in text
    ids.write_bytes("u03\r\n\u2028\x85\n u05\r".encode())
    assert writing.read_id_list(str(ids)) == ["u03", "\u2028\x85", " u05"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "recommend needs --users"),
        (["--users=u00,zz"], "1 of 2 user ids are not in the run: 'zz'"),
        (["--users=u00", "--k=0"], "k='0': expected an integer in [1, inf)"),
        (["--users=u00", "--k=x"], "k='x'"),
        (["--users=u00", "--out=recs.xlsx"], "recs.xlsx: unknown kind of table"),
        (["--users=,"], "no id"),
        (["--users=u00", "--on_unknown=maybe"], "on_unknown='maybe': expected one of error, skip"),
        (["--users=u00", "--engine=rai"], "engine='rai': expected one of local, ray; did you mean `ray`?"),
        (["--users=u00", "--workers=2"], "--workers=2 requires --engine=ray"),
        (["--users=u00", "--engine=ray"], "--engine=ray writes a file; name the file with --out"),
        (["--users=u00", "--engine=ray", "--workers=0", "--out=r.csv"], "workers='0': expected an integer"),
    ],
)
def test_bad_words_give_one_line(words: list[str], message: str, run: Path, capsys) -> None:
    assert call("recommend", run, *words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("words", [["--users=zz"], ["--users=u01", "--candidates=zz"], ["--users=zz,yy"]])
def test_skipping_every_id_leaves_nothing(words: list[str], run: Path, tmp_path: Path, capsys) -> None:
    assert call("recommend", run, *words, "--on_unknown=skip") == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("no recommendations: ")
    noun, n = ("item", 1) if len(words) == 2 else ("user", words[0].count(",") + 1)
    assert printed.err.startswith(f"{n} of {n} {noun} ids are not in the run and are skipped: 'zz'")
    for name in ("none.csv", "none.jsonl", "none.parquet"):
        assert call("recommend", run, *words, "--on_unknown=skip", f"--out={tmp_path / name}") == 0
    assert (tmp_path / "none.csv").read_text() == "user,item,score,rank\n"
    assert (tmp_path / "none.jsonl").read_text() == ""
    assert [*pd.read_parquet(tmp_path / "none.parquet").columns] == ["user", "item", "score", "rank"]
    recommender = Recommender.load(run)
    assert recommender.recommend(["u01"], candidates=["zz"], on_unknown="skip").empty


@pytest.mark.parametrize("command", ["recommend", "similar", "new-items"])
def test_an_output_that_is_a_folder_is_refused(command: str, run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "recs.csv"
    out.mkdir()
    words = {"recommend": ["--users=all"], "similar": ["--items=i00"], "new-items": ["--features=a=b.npy"]}
    assert call(command, run, *words[command], f"--out={out}") == 2
    complaint = f"error: command line: --out: {out} is a folder, not a file; choose another name\n"
    assert capsys.readouterr().err == complaint
    assert list(tmp_path.rglob("*")) == [out]


def test_advice_names_options_that_the_command_has(run: Path, capsys) -> None:
    assert call("recommend", run, "--users=zz") == 2
    assert capsys.readouterr().err.endswith("'zz'; correct them, or set on_unknown=skip\n")
    for words in (["--items=zz"], ["--users=zz"]):
        assert call("similar", run, *words) == 2
        assert capsys.readouterr().err.endswith("'zz'; correct them\n")


def test_an_interrupted_command_continues(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "SHARD_USERS", 7)
    recommender, out, write = Recommender.load(run), tmp_path / "recs.csv", writing.write_table
    users = np.arange(1, N_USERS)
    written: list[Path] = []

    def stop(frame: pd.DataFrame, file: Path) -> None:
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(file)
        write(frame, file)

    monkeypatch.setattr(writing, "write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        write_recommendations(recommender, users, out, k=2)
    assert not out.exists()
    monkeypatch.setattr(writing, "write_table", write)
    seen: list[int] = []
    assert write_recommendations(recommender, users, out, k=2, progress=seen.append) == 3
    assert seen == [7, 7, 7, 7, 2]
    found = pd.read_csv(out)
    assert found["item"].tolist() == recommender.recommend("all", 2)["item"].tolist()
    assert list(tmp_path.iterdir()) == [out]
    # Shards of another plan are not used.
    monkeypatch.setattr(writing, "write_table", stop)
    with pytest.raises(KeyboardInterrupt):
        write_recommendations(recommender, users, out, k=3)
    monkeypatch.setattr(writing, "write_table", write)
    assert write_recommendations(recommender, users, out, k=5) == 0
    assert len(pd.read_csv(out)) == 5 * (N_USERS - 1)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_shard_without_a_row_is_joined(run: Path, tmp_path: Path, monkeypatch, suffix: str) -> None:
    monkeypatch.setattr(writing, "SHARD_USERS", 1)
    recommender, out = Recommender.load(run), tmp_path / f"recs{suffix}"
    _, (seen, *_) = recommender.seen["train"].of(np.array([1]))
    candidates = [recommender.items.array[seen]]  # the first user gets nothing
    want = recommender.recommend("all", 3, candidates=candidates)
    assert want["user"].iloc[0] != recommender.users.array[1]
    write_recommendations(recommender, np.arange(1, N_USERS), out, k=3, candidates=np.array([seen]))
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet}
    found = pd.read_json(out, lines=True) if suffix == ".jsonl" else read[suffix](out)
    assert found["user"].tolist() == want["user"].tolist()
    assert suffix != ".jsonl" or "" not in out.read_text().splitlines()  # an empty line is no JSON


def test_a_shard_is_of_bounded_size(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "SHARD_ROWS", 50)
    recommender, sizes = Recommender.load(run), {}
    for k in (3, 11, 10**9):
        sizes[k] = []
        write_recommendations(
            recommender, np.arange(1, 18), tmp_path / "r.csv", k=k, progress=sizes[k].append
        )
        assert len(pd.read_csv(tmp_path / "r.csv")) == len(
            recommender.recommend(recommender.users.tokens[1:18], k)
        )
    assert sizes == {3: [16, 1], 11: [4, 4, 4, 4, 1], 10**9: [2] * 8 + [1]}


def test_shards_of_new_items_with_other_ids_are_not_used(run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(writing, "SHARD_USERS", 7)
    recommender, out = Recommender.load(run), tmp_path / "new.csv"
    rows = {m: np.ones((1, x.shape[1])) for m, x in recommender.new_items.features.items.items()}
    users, new = np.arange(1, N_USERS), np.array([N_ITEMS])

    def stop(n_users: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_recommendations(
            recommender.add_items(rows, ["typo"]), users, out, candidates=new, progress=stop
        )
    assert write_recommendations(recommender.add_items(rows, ["right"]), users, out, candidates=new) == 0
    assert set(pd.read_csv(out)["item"]) == {"right"}


def test_what_a_killed_command_left_is_deleted(run: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(run)
    for name in (".recs.0123abcd.tmp.csv", ".other.0123abcd.tmp.csv", ".vectors.0123abcd.tmp"):
        (tmp_path / name).touch()
    write_recommendations(recommender, np.array([1]), tmp_path / "recs.csv")
    export(recommender, "npy", tmp_path / "vectors")
    assert {path.name for path in tmp_path.iterdir()} == {"recs.csv", "vectors", ".other.0123abcd.tmp.csv"}


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_ray_writes_the_same_rows(
    run: Path, tmp_path: Path, monkeypatch, ray_here: None, capsys, suffix: str
) -> None:
    monkeypatch.setattr(writing, "SHARD_USERS", 7)
    words = ("recommend", run, "--users=all", "--k=3", "--candidates=i01,i02,i05,i07,i11,i13")
    here, there = tmp_path / f"here{suffix}", tmp_path / f"ray{suffix}"
    assert call(*words, f"--out={here}") == 0
    assert call(*words, f"--out={there}", "--engine=ray", "--workers=2") == 0
    assert there.read_bytes() == here.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([here.name, there.name])
    capsys.readouterr()
    assert call(*words, f"--out={tmp_path / 'many.csv'}", "--engine=ray", "--workers=97") == 2
    assert "room for" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_ray_continues_what_was_interrupted_here(
    run: Path, tmp_path: Path, monkeypatch, ray_here: None
) -> None:
    monkeypatch.setattr(writing, "SHARD_USERS", 7)
    recommender, out, write = Recommender.load(run), tmp_path / "recs.csv", writing.write_table
    written: list[Path] = []

    def stop(frame: pd.DataFrame, file: Path) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(file)
        write(frame, file)

    monkeypatch.setattr(writing, "write_table", stop)
    users = np.arange(1, N_USERS)
    with pytest.raises(KeyboardInterrupt):
        write_recommendations(recommender, users, out, k=2)
    monkeypatch.setattr(writing, "write_table", write)
    assert write_recommendations(recommender, users, out, k=2, engine="ray", workers=2) == 2
    assert pd.read_csv(out)["item"].tolist() == recommender.recommend("all", 2)["item"].tolist()


def test_seen_items_are_joined_once_and_not_at_loading(run: Path, monkeypatch) -> None:
    calls: list[int] = []
    merge = recommender_module.merged
    monkeypatch.setattr(recommender_module, "merged", lambda *lists: calls.append(1) or merge(*lists))
    recommender = Recommender.load(run)
    assert calls == []
    for exclude_seen in (False, "train", True, True):
        recommender.recommend(["u03"], 2, exclude_seen=exclude_seen)
    assert calls == [1]


def test_added_items_are_not_on_ray(run: Path, tmp_path: Path) -> None:
    recommender = Recommender.load(run)
    features = {name: np.ones((1, width)) for name, width in WIDTHS.items() if name in ("image", "text")}
    features = {name: features[name] for name in recommender.new_items.features.items}
    extended = recommender.add_items(features, ["new"])
    with pytest.raises(UserError, match="added items exist in this process only; use engine='local'"):
        write_recommendations(extended, np.array([1]), tmp_path / "r.csv", engine="ray")


def test_similar(run: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "similar.csv"
    assert call("similar", run, "--items=i01,i02", "--k=3", f"--out={out}") == 0
    want = Recommender.load(run).similar_items(["i01", "i02"], 3)
    assert pd.read_csv(out)["similar"].tolist() == want["similar"].tolist()
    capsys.readouterr()
    assert call("similar", run, "--users=u01", "--k=2") == 0
    assert capsys.readouterr().out.count("u01") == 2
    assert call("similar", run) == 2
    assert "needs --items or --users" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet", "faiss", "hnsw"])
def test_export(kind: str, run: Path, tmp_path: Path, capsys) -> None:
    if kind in ("faiss", "hnsw"):
        faiss = pytest.importorskip("faiss")
    out, want = tmp_path / "vectors", Recommender.load(run).embeddings()
    assert call("export", run, f"--format={kind}", f"--out={out}") == 0
    assert (out / "items.txt").read_text().splitlines() == want.items
    if kind == "npy":
        assert np.array_equal(np.load(out / "users.npy"), want.user.numpy())
    elif kind == "safetensors":
        assert np.array_equal(load_file(out / "embeddings.safetensors")["items"], want.item.numpy())
    elif kind == "parquet":
        found = pd.read_parquet(out / "items.parquet")
        assert found["id"].tolist() == want.items
        assert np.array_equal(np.stack(found["embedding"].tolist()), want.item.numpy())
    else:
        index = faiss.read_index(str(out / "items.faiss"))
        _, found = index.search(np.load(out / "users.npy"), 3)
        best = (want.user @ want.item.T).topk(3).indices.numpy()
        assert (found == best).mean() > 0.9
    capsys.readouterr()
    assert call("export", run, f"--out={out}") == 2
    assert "exists already" in capsys.readouterr().err


def test_two_exports_at_one_folder(run: Path, tmp_path: Path, monkeypatch) -> None:
    recommender, out = Recommender.load(run), tmp_path / "vectors"

    def slow(folder: Path, *rest: object) -> None:
        with pytest.raises(UserError, match="another process writes this folder"):
            export(recommender, "safetensors", out)
        (folder / "first").touch()

    monkeypatch.setitem(FORMATS, "npy", slow)
    assert "first" in {file.name for file in export(recommender, "npy", out)}


def test_new_items(run: Path, tmp_path: Path, capsys) -> None:
    rng = np.random.default_rng(3)
    words = []
    for name, ids in (("image", ["n2", "n1"]), ("text", ["n1", "n2", "n3"])):  # n3 has no image
        np.save(tmp_path / f"new.{name}.npy", rng.normal(size=(len(ids), WIDTHS[name])).astype(np.float32))
        (tmp_path / f"new.{name}.ids").write_text("".join(f"{one}\n" for one in ids))
        words.append(f"{name}={tmp_path}/new.{name}.npy")
    features, out = f"--features={','.join(words)}", tmp_path / "new.jsonl"
    assert call("new-items", run, features, "--users=all", "--k=2", f"--out={out}") == 0
    assert capsys.readouterr().err == "image: 2 of 3 items (1 missing), 11-d\n"
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 2 * (N_USERS - 1)
    assert {row["item"] for row in rows} <= {"n1", "n2", "n3"}
    image = np.load(tmp_path / "new.image.npy")
    tables = {
        "image": np.stack([image[1], image[0], 0 * image[0]]),
        "text": np.load(tmp_path / "new.text.npy"),
    }
    ids = ["n1", "n2", "n3"]
    want = Recommender.load(run).add_items(tables, ids).recommend("all", 2, candidates=ids)
    assert [row["item"] for row in rows] == want["item"].tolist()
    assert [row["score"] for row in rows] == pytest.approx(want["score"].tolist(), rel=1e-6)
    capsys.readouterr()
    assert call("new-items", run, features, "--items=n2", "--k=3") == 0
    assert capsys.readouterr().out.count("n2") == 3
    for items in ("n2,zz", "zz"):
        assert call("new-items", run, features, f"--items={items}") == 2
        assert "--items: 'zz': no feature file has a row of this id" in capsys.readouterr().err
    assert call("new-items", run, "--features=image") == 2
    assert "write --features=image=FILE.npy" in capsys.readouterr().err
    assert call("new-items", run, f"{features},{words[0]}") == 2
    assert "image is given twice; keep one" in capsys.readouterr().err
    assert call("new-items", run, features, "--users=zz") == 2
    assert capsys.readouterr().err.endswith("'zz'; correct them\n")
