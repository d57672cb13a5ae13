"""One command: its options, its help and its callback, on click.

click reads types and required options, writes the help and completes words for the shell. This module adds
what click lacks: ``-`` for ``_``, flags with and without a value, options that take several words, and any
key of the configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import click
from click.shell_completion import CompletionItem

from recbole_siger.cli.declared import Declared
from recbole_siger.cli.words import single_values, split_words
from recbole_siger.defaults import default_values
from recbole_siger.errors import UserError
from recbole_siger.options.flags import read_flag
from recbole_siger.options.params import did_you_mean
from recbole_siger.registry import model_names

__all__ = ["KEYS", "Command", "Opt", "option", "options_of"]

KEYS = "keys"
"""Name under which a callback gets the keys of the configuration, still text."""

_OPTIONS_ONLY = ("model", "dataset", "config_file")
"""Words that are no keys of the configuration where the command has no such option."""

_METAVARS = {"str": "TEXT", "int": "INT", "float": "FLOAT", "list": "LIST", "dict": "DICT"}

Section = tuple[str, list[Declared]]


class _FlagType(click.ParamType):
    """True or False by the one rule for booleans."""

    name = "flag"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bool:
        """Return the boolean; raise a UserError that names the option for any other text."""
        return value if isinstance(value, bool) else read_flag(str(param and param.name), str(value))


class _ChoiceType(click.ParamType):
    """One of some words, as text."""

    name = "choice"

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the word; raise a UserError that names the option and the words for any other text."""
        if value not in self.words:
            among = f"{', '.join(self.words)}{did_you_mean(value, self.words)}"
            raise UserError(f"command line: {param and param.name}={value!r}: expected one of {among}")
        return str(value)


class Opt(click.Option):
    """An option of a command; the value stays text, and is None where the option was not given."""

    def __init__(
        self,
        declared: Declared,
        *,
        metavar: str = "",
        required: bool = False,
        repeated: bool = False,
        strict: bool = False,
    ) -> None:
        self.declared = declared
        self.is_switch = declared.kind == "bool"
        words = declared.choices if strict else ()  # a dataclass checks its own
        shape = metavar or _METAVARS.get(declared.kind.split(" ")[0], "TEXT")
        super().__init__(
            [f"--{declared.name}", declared.name],
            type=_FlagType() if self.is_switch else _ChoiceType(words) if words else str,
            required=required,
            multiple=repeated,
            metavar=shape,
            help=_sentence(declared),
        )

    @property
    def head(self) -> str:
        """How the option is written, such as ``--out=FILE ...``."""
        shape = "[=BOOL]" if self.is_switch else f"={self.metavar}"
        return f"--{self.name}{shape}{' ...' if self.multiple else ''}"

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete model names and choices."""
        values: Sequence[str] = self.declared.choices
        if self.name in ("model", "models"):
            values = model_names()
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{value}") for value in values if value.startswith(last)]


def option(
    name: str,
    meaning: str,
    *,
    metavar: str = "",
    kind: str = "str",
    choices: str = "",
    default: str = "",
    required: bool = False,
    repeated: bool = False,
) -> Opt:
    """Return an option that is declared here and not by a dataclass."""
    declared = Declared(name, kind, choices, default, meaning)
    return Opt(declared, metavar=metavar, required=required, repeated=repeated, strict=True)


def options_of(rows: Sequence[Declared]) -> list[Opt]:
    """Return the options of rows that were read from a dataclass and a YAML file."""
    return [Opt(row) for row in rows]


def _sentence(declared: Declared) -> str:
    """Return meaning, default and range as the help prints them."""
    word = "one of" if declared.choices else "range"
    notes = [f"{word}: {declared.range}"] if declared.range else []
    notes += [f"default: {declared.default}"] if declared.default else []
    return f"{declared.meaning} [{'; '.join(notes)}]".strip() if notes else declared.meaning


class Command(click.Command):
    """A command that takes ``--key=value`` in every spelling of :func:`split_words`.

    Args:
        name: The command's name.
        callback: Gets each option by its name: text, a bool for a flag, a tuple for a repeated option; None
            for an option that was not given.
        params: Options, and arguments for words without a key.
        usage: What follows the command's name, as the first line of the help and the errors print it.
        summary: One or two sentences.
        example: One full command.
        keys: Whether any key of the configuration is taken; the callback gets them as ``keys``.
        sections: Makes further sections of the help, from the name of the model that was typed or None.
        note: The last sentence of the help.
    """

    def __init__(
        self,
        name: str,
        callback: Callable[..., int | None],
        params: Sequence[click.Parameter],
        *,
        usage: str,
        summary: str,
        example: str,
        keys: bool = False,
        sections: Callable[[str | None], list[Section]] | None = None,
        note: str = "",
    ) -> None:
        settings = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
        super().__init__(
            name, callback=callback, params=list(params), help=summary, context_settings=settings
        )
        self.usage, self.example, self.note = f"recbole-siger {name} {usage}".rstrip(), example, note
        self.takes_keys, self.sections = keys, sections
        self.opts = {str(param.name): param for param in params if isinstance(param, Opt)}
        self.arguments = [param for param in params if isinstance(param, click.Argument)]

    # ---- words

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bring the words into one spelling, set the configuration's keys aside; click reads the rest."""
        ctx.meta["model"] = _typed_model(args)
        if {"-h", "--help"} & {*args}:
            return super().parse_args(ctx, ["--help"])
        try:
            alone, pairs = self._split(args)
        except UserError:
            if not ctx.resilient_parsing:  # click completes a line that is not finished
                raise
            alone, pairs = [], []
        keys = single_values([pair for pair in pairs if pair[0] not in self.opts])
        rest = super().parse_args(ctx, [*(f"--{k}={v}" for k, v in pairs if k in self.opts), "--", *alone])
        if self.takes_keys:
            ctx.params[KEYS] = keys
        return rest

    def _split(self, args: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
        lists = [name for name, opt in self.opts.items() if opt.multiple]
        model = _typed_model(args)
        alone, pairs = split_words(
            args,
            flags=lambda key: self._is_flag(key, model),
            known=lambda key: key in self.opts or key in default_values(str(model), ""),
            lists=lists,
            positional=bool(self.arguments),
        )
        if alone and not self.arguments:
            raise UserError(f"command line: cannot place {alone[0]!r}; write `{self.usage}`")
        for key, _ in pairs:
            if key not in self.opts and (not self.takes_keys or key in _OPTIONS_ONLY):
                hint = did_you_mean(key, self.opts) or f"; write `{self.usage}`"
                raise UserError(f"command line: {self.name} has no option --{key}{hint}")
        single_values([pair for pair in pairs if pair[0] not in lists])
        return alone, pairs

    def _is_flag(self, key: str, model: str | None) -> bool:
        """Say whether a key may be typed without a value: a flag of the command or of the configuration."""
        if key in self.opts:
            return self.opts[key].is_switch
        return not self.takes_keys or isinstance(default_values(str(model), "").get(key), bool)

    # ---- help

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write usage, summary, example, options and the sections of the configuration."""
        formatter.write(f"Usage: {self.usage}\n")
        formatter.write_paragraph()
        formatter.write_text(str(self.help))
        with formatter.section("Example"):
            formatter.write(f"  {self.example}\n")  # in one line, to be copied
        for title, rows in self._tables(ctx):
            with formatter.section(title):
                formatter.write_dl(rows, col_max=34)
        if self.note:
            formatter.write_paragraph()
            formatter.write_text(self.note)

    def _tables(self, ctx: click.Context) -> Iterator[tuple[str, list[tuple[str, str]]]]:
        needed = [opt for opt in self.opts.values() if opt.required]
        others = [opt for opt in self.opts.values() if not opt.required]
        common = [("--help", "Show this text.")]
        if needed:
            yield "Required options", [(opt.head, str(opt.help)) for opt in needed]
        yield "Options", [*((opt.head, str(opt.help)) for opt in others), *common]
        for title, rows in self.sections(ctx.meta["model"]) if self.sections else []:
            yield title, [(opt.head, str(opt.help)) for opt in options_of(rows)]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete options, and the keys of the configuration where the command takes them."""
        found = super().shell_complete(ctx, incomplete)
        if self.takes_keys and incomplete.startswith("--"):
            keys = default_values(str(ctx.meta.get("model")), "")
            found += [CompletionItem(f"--{key}=") for key in keys if f"--{key}".startswith(incomplete)]
        return found


def _typed_model(words: Sequence[str]) -> str | None:
    """Return the model's name, or the first of several, from words that may not be finished."""
    for word, after in pairwise([*words, ""]):
        key, equals, value = word.partition("=")
        if key in ("--model", "--models", "-m"):
            return (value if equals else after).split(",")[0] or None
    return None
