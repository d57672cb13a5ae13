"""Nothing that a file or an option says is run as code: every such call in RecBole is known and closed."""

from __future__ import annotations

import ast
import io
import json
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from recbole_siger.cli import main
from recbole_siger.config import Config
from recbole_siger.errors import UserError
from recbole_siger.registry import recbole_root
from recbole_siger.rules.unsafe import REFUSED_MODELS, UNSAFE, check_unsafe
from recbole_siger.runs.folder import RunFolder
from recbole_siger.testing.toy import make_toy

# Calls that can run what text or a file says, by the name under which RecBole's sources call them.
_NAMES = {"eval", "exec", "compile", "__import__", "load_model"}
_ATTRIBUTES = {
    "torch.load": "torch.load",
    "np.load": "np.load",
    "numpy.load": "np.load",
    "pickle.load": "pickle.load",
    "pickle.loads": "pickle.load",
    "pd.read_pickle": "pickle.load",
    "joblib.load": "pickle.load",
    "yaml.load": "yaml.load",
    "yaml.unsafe_load": "yaml.load",
    "yaml.full_load": "yaml.load",
    "os.system": "shell",
    "os.popen": "shell",
    "subprocess.run": "shell",
    "subprocess.call": "shell",
    "subprocess.Popen": "shell",
    "importlib.import_module": "import_module",
}

# A call in a model is closed by a value of UNSAFE: the key that reaches it.
IN_MODELS = {
    ("context_aware_recommender/kd_dagfm.py", "KD_DAGFM.__init__", "eval"): ("KD_DAGFM", "teacher"),
    ("context_aware_recommender/kd_dagfm.py", "KD_DAGFM.__init__", "torch.load"): ("KD_DAGFM", "phase"),
    ("general_recommender/convncf.py", "ConvNCF.__init__", "torch.load"): ("ConvNCF", "train_method"),
    ("general_recommender/ldiffrec.py", "LDiffRec.__init__", "np.load"): ("LDiffRec", "n_cate"),
    ("general_recommender/nais.py", "NAIS._load_pretrain", "torch.load"): ("NAIS", "pretrain_path"),
    ("general_recommender/neumf.py", "NeuMF.load_pretrain", "torch.load"): ("NeuMF", "use_pretrain"),
    ("general_recommender/ract.py", "RaCT.__init__", "torch.load"): ("RaCT", "train_stage"),
    ("sequential_recommender/s3rec.py", "S3Rec.__init__", "torch.load"): ("S3Rec", "train_stage"),
    ("exlib_recommender/xgboost.py", "XGBoost.load_state_dict", "load_model"): ("xgboost", ""),
}

# A call elsewhere is closed because this package does not reach it.
ELSEWHERE = {
    ("config/configurator.py", "Config._convert_config_dict", "eval"): "Config overrides both callers",
    ("config/configurator.py", "Config._load_config_files", "yaml.load"): "Config overrides it",
    ("config/configurator.py", "Config._update_internal_config_dict", "yaml.load"): "Config overrides it",
    ("data/dataset/dataset.py", "Dataset._get_download_url", "yaml.load"): "reads RecBole's own file",
    ("data/utils.py", "create_dataset", "pickle.load"): "not called; its keys are refused",
    ("data/utils.py", "load_split_dataloaders", "pickle.load"): "runs in an empty folder; keys are refused",
    ("data/utils.py", "create_dataset", "import_module"): "of a fixed module",
    ("quick_start/quick_start.py", "load_data_and_model", "torch.load"): "quick_start of ours replaces it",
    ("trainer/hyper_tuning.py", "HyperTuning._build_space_from_file", "eval"): "tuning of ours replaces it",
    ("trainer/trainer.py", "Trainer.resume_checkpoint", "torch.load"): "RunTrainer does not call it",
    ("trainer/trainer.py", "Trainer.evaluate", "torch.load"): "with load_best_model, which we override",
    ("trainer/trainer.py", "XGBoostTrainer.__init__", "__import__"): "the model is refused",
    ("trainer/trainer.py", "LightGBMTrainer.__init__", "__import__"): "the model is refused",
    ("trainer/trainer.py", "XGBoostTrainer.evaluate", "load_model"): "the model is refused",
    ("utils/utils.py", "get_model", "import_module"): "names are checked against the models of RecBole",
    ("utils/utils.py", "get_trainer", "import_module"): "of a fixed module",
}  # fmt: skip


def _calls(path: Path) -> Iterator[tuple[str, str]]:
    """Yield ``(class and function, kind)`` of each call in a file that can run code."""

    def visit(node: ast.AST, place: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            place = (*place, node.name)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in _NAMES or called.rpartition(".")[2] == "load_model":
                yield ".".join(place), called.rpartition(".")[2]
            elif called in _ATTRIBUTES:
                yield ".".join(place), _ATTRIBUTES[called]
            elif any(keyword.arg == "allow_pickle" for keyword in node.keywords):
                yield ".".join(place), "allow_pickle"
        for child in ast.iter_child_nodes(node):
            yield from visit(child, place)

    yield from visit(ast.parse(path.read_text(encoding="utf-8")), ())


def test_every_call_of_recbole_that_can_run_code_is_listed() -> None:
    root, found = recbole_root(), set()
    for path in root.rglob("*.py"):
        name = path.relative_to(root).as_posix()
        found |= {(name.removeprefix("model/"), place, kind) for place, kind in _calls(path)}
    assert found == {*IN_MODELS, *ELSEWHERE}


def test_the_search_finds_each_kind_of_call(tmp_path: Path) -> None:
    source = "class A:\n def f(self):\n  eval('1'); np.load('x', allow_pickle=True); x.y(allow_pickle=1)\n"
    (tmp_path / "a.py").write_text(source + "subprocess.run('ls'); pickle.loads(b''); booster.load_model(1)")
    kinds = [("A.f", kind) for kind in ("eval", "np.load", "allow_pickle")]
    assert [*_calls(tmp_path / "a.py")] == [*kinds, ("", "shell"), ("", "pickle.load"), ("", "load_model")]


@pytest.mark.parametrize(("model", "key"), sorted(set(IN_MODELS.values())))
def test_every_call_in_a_model_is_closed(model: str, key: str) -> None:
    assert model in REFUSED_MODELS or key in {option.key for option in UNSAFE[model]}


@pytest.mark.parametrize("model", sorted(REFUSED_MODELS))
def test_a_model_that_needs_pickle_is_refused_before_it_is_imported(model: str) -> None:
    with pytest.raises(UserError, match=r"pickle; choose another model$"):
        Config(model, "ml-100k")


# ---- from every source, with a value that runs code


class _Attack:
    """Makes a file ``caught`` when it is unpickled."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("caught"),)


def _torch_file(path: Path) -> None:
    """Write what ``torch.save`` would write of an attack."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"state_dict": _Attack()}))
        archive.writestr("archive/version", "3\n")


_CODE = "(__import__('pathlib').Path('caught').touch() or CrossNet)"
ATTACKS: dict[str, dict[str, Any]] = {
    "KD_DAGFM": {"teacher": _CODE},
    "KD_DAGFM warm": {"phase": "distillation", "warm_up": "evil.pth"},
    "LDiffRec": {"n_cate": 2},
    "NeuMF": {"use_pretrain": True, "mf_pretrain_path": "evil.pth", "mlp_pretrain_path": "evil.pth"},
    "NAIS": {"pretrain_path": "evil.pth"},
    "ConvNCF": {"train_method": "after_pretrain", "pre_model_path": "evil.pth"},
    "RaCT": {"train_stage": "finetune", "pre_model_path": "evil.pth"},
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_toy().write(tmp_path / "dataset" / "toy")
    _torch_file(tmp_path / "evil.pth")
    content = io.BytesIO()
    np.save(content, np.array([_Attack()], dtype=object), allow_pickle=True)
    (tmp_path / "dataset" / "toy" / "item_emb.npy").write_bytes(content.getvalue())
    return tmp_path


def _refused(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 2, words
    out = capfd.readouterr()
    assert out.err.startswith("error: ")
    assert out.err.count("\n") == 1
    assert not Path("caught").exists()
    return out.err


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("source", ["command line", "config file", "dataset"])
def test_code_of_a_file_is_not_run(
    name: str, source: str, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, values = name.split()[0], ATTACKS[name]
    words = ["run", f"--model={model}", "--dataset=toy", "--epochs=1", "--gpu_id="]
    if source == "command line":
        words += [f"--{key}={value}" for key, value in values.items()]
    elif source == "config file":
        (place / "mine.yaml").write_text(yaml.safe_dump(values))
        words += ["--config_files=mine.yaml"]
    else:
        with (place / "dataset" / "toy" / "toy.yaml").open("a") as stream:
            stream.write(yaml.safe_dump(values))
        source = "dataset/toy/toy.yaml"
    message = _refused(words, capfd)
    if model not in REFUSED_MODELS:
        assert source.replace("config file", "mine.yaml") in message
        assert f"{next(iter(values))}=" in message
    assert "pickle" in message or "as Python code" in message


RESULTS = {
    **dict.fromkeys(("model", "dataset", "protocol", "protocol_id", "candidates"), "x"),
    **{"best_epoch": 0, "n_epochs": 1, "seed": 1, "n_parameters": 1, "seconds_per_epoch": 0.5},
    **{"valid": {}, "test": {"recall@10": 0.5}, "versions": {}, "protocol_facts": {}, "peak_memory_mib": 0.5},
}
COMMANDS = [["evaluate", "theirs"], ["resume", "theirs"], ["audit", "--run=theirs"]]


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_code_of_a_run_folder_is_not_run(
    name: str, command: list[str], place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = RunFolder.create("theirs")
    values = {"model": name.split()[0], "dataset": "toy", "data_path": "dataset", "protocol": "recbole"}
    values |= ATTACKS[name]
    (place / "theirs" / "config.yaml").write_text(yaml.safe_dump(values))
    for file in ("results.json", "environment.json"):
        if command[0] != "resume":  # which refuses a finished run
            run.file(file).write_text(json.dumps(RESULTS))
    message = _refused(command, capfd)
    assert "pickle" in message or "as Python code" in message
    assert values["model"] in REFUSED_MODELS or f"theirs/config.yaml: {next(iter(ATTACKS[name]))}=" in message


@pytest.mark.parametrize("model", sorted(set(UNSAFE) - set(REFUSED_MODELS)))
def test_the_defaults_of_recbole_are_allowed(model: str) -> None:
    assert Config(model, "ml-100k", config_dict={"gpu_id": ""})["model"] == model


def test_a_derived_class_and_a_value_that_only_compares_equal_are_refused() -> None:
    with pytest.raises(UserError, match=r"^mine: n_cate=.2.: .*; LDiffRec allows 1$"):
        check_unsafe(["MyModel", "LDiffRec"], {"n_cate": 2}, {"n_cate": "mine"})
    with pytest.raises(UserError, match=r"use_pretrain='0': .* allows False"):
        check_unsafe(["NeuMF"], {"use_pretrain": 0}, {})
    check_unsafe(["NeuMF"], {"use_pretrain": False}, {})
