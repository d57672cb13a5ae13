"""Commands about data and this installation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from recbole_siger.cli.arguments import read_keys, read_options, single_values
from recbole_siger.errors import UserError

__all__ = ["COMMANDS", "USAGE"]

USAGE = """\
  prepare amazon --category=Baby --source=DIR --name=baby [--edition=2014|2018|2023]
  prepare microlens|movielens --source=DIR --name=NAME [--edition=100k|ml-1m|...]
  prepare csv --inter=my.csv --items=items.csv --name=NAME [--sep=tab]
                        turn raw data into a dataset: [--k_core=5] [--split=random|leave_one_out|temporal]
                        [--ratios=8:1:1] [--seed=2020] [--data_path=dataset] [--overwrite]
                        csv: [--user_col=user_id] [--item_col=item_id] [--rating_col=...] [--time_col=...]
                        public data: [--download] [--mirror=URL] fetches what DIR lacks
  import-mmrec DIR --name=NAME [--feature MODALITY=FILE ...] [--data_path=dataset] [--overwrite]
                        turn a folder in MMRec's layout into a dataset
  extract --items=items.tsv --dataset=NAME --text-model=NAME|FOLDER|tfidf --text-cols=title,brand
                        make text features of a table; or image features of a folder, by
                        --image-dir=posters/ --image-model=efficientnet-lite0|timm:NAME|FOLDER
                        --modality, --batch_size, --max_tokens, --normalize, --engine=ray, --workers,
                        --data_path, --overwrite: properties/extract.yaml has them all
  profiles --items=items.tsv --dataset=NAME --kind=item|user --base-url=URL --model=NAME [--dry-run]
                        let a language model describe items, or users by their training rows;
                        --provider=transformers --model=FOLDER runs one here
  cache ls|clear [--cache_dir=FOLDER]
                        list or delete the graphs that earlier runs have built
  doctor [--json]       check this installation
"""


def _prepare(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("overwrite", "download"))
    values = single_values(found)
    if len(positional) != 1:
        raise UserError(
            "command line: write `recbole-siger prepare amazon|microlens|movielens|csv --name=NAME`"
        )
    from recbole_siger.prepare.run import prepare

    prepare(positional[0], values, report=print)
    return 0


def _import_mmrec(words: Sequence[str]) -> int:
    positional, found = read_options(words, flags=("overwrite",))
    features = {}
    for _, pair in (entry for entry in found if entry[0] == "feature"):
        modality, equals, file = pair.partition("=")
        if not equals or not modality or not file:
            raise UserError(f"command line: --feature {pair!r}; write --feature MODALITY=FILE")
        if modality in features:
            raise UserError(f"command line: --feature {modality} is given twice; keep one")
        features[modality] = Path(file)
    values = single_values([entry for entry in found if entry[0] != "feature"])
    if len(positional) != 1 or "name" not in values or set(values) - {"name", "data_path", "overwrite"}:
        raise UserError(
            "command line: write `recbole-siger import-mmrec DIR --name=NAME [--feature MODALITY=FILE]`"
        )
    from recbole_siger.prepare.sources.mmrec import import_mmrec

    import_mmrec(
        Path(positional[0]),
        values["name"],
        data_path=Path(values.get("data_path", "dataset")),
        features=features,
        overwrite=values.get("overwrite", "False").lower() == "true",
        report=print,
    )
    return 0


def _extract(words: Sequence[str]) -> int:
    found = read_keys(words, flags=("normalize", "overwrite"))
    from recbole_siger.extract.run import ExtractParams, extract
    from recbole_siger.options.command import command_params

    extract(command_params(ExtractParams, "extract", single_values(found)), report=print)
    return 0


def _profiles(words: Sequence[str]) -> int:
    found = read_keys(words, flags=("dry_run", "overwrite"))
    from recbole_siger.options.command import command_params
    from recbole_siger.profiles.run import ProfilesParams, profiles

    profiles(command_params(ProfilesParams, "profiles", single_values(found)), report=print)
    return 0


def _cache(words: Sequence[str]) -> int:
    positional, found = read_options(words)
    values = single_values(found)
    if positional not in (["ls"], ["clear"]) or set(values) - {"cache_dir"}:
        raise UserError("command line: write `recbole-siger cache ls|clear [--cache_dir=FOLDER]`")
    from recbole_siger.graph.cache import GraphCache

    graphs = GraphCache(values.get("cache_dir"))
    for line in graphs.report() if positional == ["ls"] else [graphs.clear()]:
        print(line)
    return 0


def _doctor(words: Sequence[str]) -> int:
    if set(words) - {"--json"}:
        raise UserError("command line: write `recbole-siger doctor [--json]`")
    from recbole_siger.cli import doctor

    return doctor.main(as_json=bool(words))


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "prepare": _prepare,
    "import-mmrec": _import_mmrec,
    "extract": _extract,
    "profiles": _profiles,
    "cache": _cache,
    "doctor": _doctor,
}
