"""Strategies of cases, one for each kind of command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from recbole_siger.defaults import default_values, known_keys
from tests.fuzz.strategies import DICTS, ODD_TEXT, WHOLES, edits, keys, nested, odd_words, yaml_text
from tests.fuzz.world import QUICK, Case

__all__ = ["FAMILIES"]

DATA = (
    "data/toy/toy.train.inter",
    "data/toy/toy.valid.inter",
    "data/toy/toy.test.inter",
    "data/toy/toy.yaml",
)
FEATURES = tuple(f"data/toy/toy.{name}.{suffix}" for name in ("image", "text") for suffix in ("npy", "ids"))
RUN_FILES = ("config.yaml", "results.json", "metrics.jsonl", "users.csv", "model.safetensors", "run.log")

# What would make a run large, or name files and devices of this machine: only for --dry_run.
LARGE = {
    "embedding_size",
    "epochs",
    "worker",
    "threads",
    "gpu_id",
    "run_dir",
    "cache_dir",
    "data_path",
    "log_wandb",
    "logger",
}


def _options(values: dict[str, Any]) -> list[str]:
    return [f"--{key}={value}".replace("\0", "") for key, value in values.items()]


def _known(model: str) -> dict[str, Any]:
    """Return each known key with its default, or None."""
    defaults = default_values(model, "toy")
    return {key: defaults.get(key) for key in sorted(known_keys(defaults))}


def _run(command: str, model: str, *more: str) -> list[str]:
    return [command, f"--model={model}", "--dataset=toy", "--data_path=@/data", "--cache_dir=@/cache", *more]


@st.composite
def configurations(draw: st.DrawFn) -> Case:
    """`run --dry_run` with options of the command line, of a file, or of a changed file."""
    model = draw(st.sampled_from(["SIGER", "BPR", "LightGCN", "FREEDOM", "NeuMF", "SASRec"]))
    known, words = _known(model), _run("run", model, "--dry_run")
    how = draw(st.sampled_from(["typed", "file", "edited", "whole"]))
    if how == "typed":
        key = st.sampled_from([*known, *DICTS])
        pairs = draw(
            st.dictionaries(key, st.sampled_from(ODD_TEXT) | nested("x").map(str), min_size=1, max_size=3)
        )
        return Case([*words, *_options(pairs)])
    if how == "edited":
        return Case([*words, "--config_files=@/conf.yaml"], draw(edits(["conf.yaml", "data/toy/toy.yaml"])))
    text = (
        draw(st.sampled_from(WHOLES))
        if how == "whole"
        else yaml_text(draw(keys(known))).encode("utf-8", "replace")
    )
    return Case([*words, "--config_files=@/c.yaml"], files={"c.yaml": text})


@st.composite
def datasets(draw: st.DrawFn) -> Case:
    """`estimate`, `audit` and `run` on a dataset with changed files."""
    command, model = (
        draw(st.sampled_from(["estimate", "estimate", "audit", "run"])),
        draw(st.sampled_from(["BPR", "SIGER"])),
    )
    files = DATA if model == "BPR" else (*DATA, *FEATURES)
    words = _run(command, model, *QUICK, *(("--run_dir=@/work/r",) if command == "run" else ()))
    return Case(
        words, draw(edits(files)), writes=("work", "cache"), codes=(0, 1, 2) if command == "audit" else (0, 2)
    )


@st.composite
def trainings(draw: st.DrawFn) -> Case:
    """`run` and `estimate` of one epoch with options in a file."""
    model = draw(st.sampled_from(["SIGER", "BPR", "LightGCN", "VBPR", "FREEDOM", "SCALE", "NeuMF", "Pop"]))
    known = {key: value for key, value in _known(model).items() if key not in LARGE}
    values = {key: value for key, value in draw(keys(known)).items() if key not in LARGE}
    command = draw(st.sampled_from(["run", "estimate"]))
    words = _run(
        command,
        model,
        *(word for word in QUICK if "embedding_size" not in word or "embedding_size" in _known(model)),
        "--config_files=@/c.yaml",
        *(("--run_dir=@/work/r",) if command == "run" else ()),
    )
    return Case(
        words, files={"c.yaml": yaml_text(values).encode("utf-8", "replace")}, writes=("work", "cache")
    )


@st.composite
def run_folders(draw: st.DrawFn) -> Case:
    """Commands that read a run folder with changed files."""
    model = draw(st.sampled_from(["BPR", "SIGER"]))
    run = f"@/runs/toy/{model}"
    listed: Sequence[tuple[list[str], tuple[int, ...]]] = [
        (["evaluate", run, "--data_path=@/data"], (0, 2)),
        (["resume", run, "--data_path=@/data"], (0, 2)),
        (["report", run, "--out=@/work/page.html"], (0, 2)),
        (["report", "curves", run, "--out=@/work/c.svg"], (0, 2)),
        (["audit", f"--run={run}", "--data_path=@/data"], (0, 1, 2)),
        (
            ["compare", "--models=BPR,SIGER", "--dataset=toy", "--data_path=@/data", "--seeds=1", *QUICK],
            (0, 1, 2),
        ),
    ]
    words, codes = draw(st.sampled_from(listed))
    files = [f"runs/toy/{model}/{name}" for name in RUN_FILES]
    return Case(words, draw(edits(files)), writes=("work", "runs", "cache"), codes=codes)


@st.composite
def raw_data(draw: st.DrawFn) -> Case:
    """`prepare` of each kind, and `import-mmrec`."""
    source = ["--source=@/raw", "--k_core=0"]
    kinds: dict[str, tuple[list[str], list[str]]] = {
        "csv": (["--inter=@/raw/inter.csv", "--items=@/raw/items.csv"], ["inter.csv", "items.csv"]),
        "movielens": (source, ["u.data", "u.item"]),
        "microlens": (source, ["MicroLens-50k_pairs.csv", "MicroLens-50k_titles.csv"]),
        "amazon": ([*source, "--category=Baby"], ["reviews_Baby_5.json", "meta_Baby.json"]),
    }
    kind = draw(st.sampled_from([*kinds, "mmrec", "mmrec"]))
    if kind == "mmrec":
        words = ["import-mmrec", "@/mmrec", "--name=new", "--data_path=@/work"]
        files = ["mmrec/toy.inter", "mmrec/image_feat.npy", "mmrec/text_feat.npy"]
        return Case(words, draw(edits(files)), writes=("work",))
    more, names = kinds[kind]
    words = ["prepare", kind, "--name=new", "--data_path=@/work", *more]
    if draw(st.integers(0, 3)) == 0:
        option = st.sampled_from(
            ["name", "k_core", "split", "ratios", "seed", "user_col", "sep", "edition", "time_col"]
        )
        words += _options(draw(st.dictionaries(option, st.sampled_from(ODD_TEXT), min_size=1, max_size=2)))
    return Case(words, draw(edits([f"raw/{name}" for name in names])), writes=("work",))


@st.composite
def features(draw: st.DrawFn) -> Case:
    """`extract` and `profiles --dry_run` on changed tables, images and prompts."""
    kind = draw(st.sampled_from(["text", "image", "profiles", "user"]))
    words = ["--items=@/raw/items.csv", "--dataset=shop", "--data_path=@/work"]
    files = ["raw/items.csv"]
    if kind == "text":
        words = ["extract", *words, "--text_model=tfidf", "--tfidf_dim=2", "--text_cols=title,brand"]
        option = [
            "tfidf_dim",
            "shard_size",
            "text_cols",
            "template",
            "modality",
            "id_col",
            "normalize",
            "threads",
        ]
    elif kind == "image":
        words = ["extract", *words, "--image_model=mean", "--image_dir=@/posters"]
        files += [f"posters/{item}.{'jpg' if item % 2 else 'png'}" for item in range(5)]
        option = ["image_col", "image_max_pixels", "batch_size", "modality"]
    else:
        words = [
            "profiles",
            *words,
            f"--kind={'item' if kind == 'profiles' else 'user'}",
            "--model=m",
            "--dry_run",
        ]
        words += ["--prompt=@/prompt.txt"] if kind == "profiles" else ["--dataset=toy", "--data_path=@/data"]
        files += ["prompt.txt"] if kind == "profiles" else list(DATA)
        option = ["text_cols", "max_history", "base_url", "max_tokens", "temperature", "id_col", "seed"]
    if draw(st.integers(0, 2)) == 0:
        pairs = st.dictionaries(st.sampled_from(option), st.sampled_from(ODD_TEXT), min_size=1, max_size=2)
        words += [word for word in _options(draw(pairs)) if "threads" not in word]
    return Case(words, draw(edits(files)), writes=("work",))


@st.composite
def typed(draw: st.DrawFn) -> Case:
    """Words that no command expects."""
    first = [
        *(
            ["config"],
            ["config", "SIGER"],
            ["models"],
            ["cache", "ls"],
            ["cache", "clear"],
            ["report"],
            ["evaluate"],
        ),
        *(
            ["audit"],
            ["estimate"],
            ["run", "--dry_run"],
            ["prepare"],
            ["prepare", "csv"],
            ["import-mmrec"],
            ["extract"],
        ),
        *(
            ["compare"],
            ["sweep"],
            ["ablate"],
            ["cold-start"],
            ["tune"],
            ["completion"],
            ["resume"],
            ["profiles"],
        ),
    ]
    words = [*draw(st.sampled_from(first)), *draw(odd_words())]
    option = st.sampled_from(
        ["model", "dataset", "models", "seeds", "out", "cache_dir", "config_files", "key", "values"]
    )
    pairs = draw(
        st.dictionaries(option, st.sampled_from([*ODD_TEXT, "SIGER", "toy", "BPR,SIGER"]), max_size=2)
    )
    return Case([*words, *_options(pairs)], writes=("work",), codes=(0, 1, 2))


FAMILIES = {
    "configurations": configurations(),
    "datasets": datasets(),
    "trainings": trainings(),
    "run_folders": run_folders(),
    "raw_data": raw_data(),
    "features": features(),
    "typed": typed(),
}
