"""Every kind of RecBole's models on plain data ends in one line, and nothing is fetched from the network."""

from __future__ import annotations

import importlib.util
import re
import socket
from pathlib import Path

import pytest

from recbole_siger.cli import main
from recbole_siger.testing.toy import make_toy


@pytest.fixture(autouse=True)
def _plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in a folder with plain data, without a network."""

    def no_network(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.chdir(tmp_path)
    make_toy().write(tmp_path / "dataset" / "toy")


def _error(words: list[str], capfd: pytest.CaptureFixture[str]) -> str:
    code, err = main(words), capfd.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (2, 1), err
    assert "Traceback" not in err
    return lines[0]


RUN = ["run", "--dataset=toy", "--protocol=recbole", "--epochs=1", "--gpu_id="]


@pytest.mark.parametrize(
    ("model", "options", "part"),
    [
        ("SASRec", [], "train_neg_sample_args"),
        ("SASRec", ["--train_neg_sample_args=None"], "needs the field 'timestamp'; write --load_col="),
        ("GRU4Rec", ["--train_neg_sample_args=None"], "needs the field 'timestamp'"),
        (
            "SASRec",
            ["--train_neg_sample_args=None", "--load_col=None"],
            "toy.train.inter: no field 'timestamp'",
        ),
        (
            "BERT4Rec",
            ["--train_neg_sample_args=None", "--load_col={inter: '*'}"],
            "toy.train.inter: no field 'timestamp'",
        ),
        ("KGAT", [], "toy.kg: no such dataset file"),
        ("CKE", [], "toy.kg: no such dataset file"),
        ("FM", [], "no row has a label; write --load_col='{inter: [user_id, item_id, rating]}' --threshold="),
        ("DeepFM", ["--load_col=None"], "no row has a label"),
        ("RaCT", [], "pickle"),
        ("xgboost", [], "decision-tree"),
    ],
)
def test_another_kind_of_model_on_plain_data(
    model: str, options: list[str], part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    message = _error([*RUN, f"--model={model}", *options], capfd)
    assert part in message
    assert not [*Path("runs").rglob("results.json")]


@pytest.mark.parametrize("model", ["SASRec", "KGAT", "FM", "BPR", "SIGER"])
def test_a_dataset_that_is_not_there_is_not_downloaded(model: str, capfd: pytest.CaptureFixture[str]) -> None:
    words = [*RUN[:1], f"--model={model}", "--dataset=ml-1m", "--protocol=recbole"]
    options = ["--train_neg_sample_args=None"] if model == "SASRec" else []
    assert "ml-1m.inter: no such dataset file" in _error([*words, *options], capfd)
    assert not Path("dataset/ml-1m").exists()


@pytest.mark.parametrize(
    ("model", "option"),
    [
        ("MultiVAE", "mlp_hidden_size=wide"),
        ("ConvNCF", "cnn_channels=[1, 7]"),
        ("NeuMF", "mlp_hidden_size=[]"),
        ("LightGCN", "embedding_size=1000000000000000"),
        ("NNCF", "neigh_info_method=none"),
    ],
)
def test_options_that_do_not_fit_a_model_name_the_model_and_the_options(
    model: str, option: str, capfd: pytest.CaptureFixture[str]
) -> None:
    message = _error([*RUN, f"--model={model}", f"--{option}"], capfd)
    assert option.partition("=")[0] in message


def test_an_optimizer_of_sparse_gradients_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    message = _error([*RUN, "--model=BPR", "--learner=sparse_adam"], capfd)
    assert "command line: learner=sparse_adam trains sparse gradients only, and BPR has others" in message


def test_wandb_is_asked_for_in_one_line(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "wandb" else find(name, *a)
    )
    message = _error([*RUN, "--model=BPR", "--log_wandb=True"], capfd)
    assert message == "error: command line: log_wandb=True needs the package wandb: pip install wandb"


def test_blanks_in_the_path_of_a_configuration_file(capfd: pytest.CaptureFixture[str]) -> None:
    Path("My Drive").mkdir()
    Path("My Drive/c.yaml").write_text("model: BPR\ndataset: toy\nepochs: 3\n")
    Path("d.yaml").write_text("epochs: 5\n")
    for words, epochs in (
        ("My Drive/c.yaml", 3),
        ("'My Drive/c.yaml' d.yaml", 5),
        (r"d.yaml My\ Drive/c.yaml", 3),
        ('"My Drive/c.yaml"', 3),
    ):
        assert main(["run", "--dry_run", f"--config_files={words}"]) == 0
        assert re.search(rf"\bepochs\W+{epochs}\b", capfd.readouterr().out)
    assert "'My Drive" in _error(["run", "--config_files='My Drive/c.yaml"], capfd)


def test_audit_reads_configuration_files(capfd: pytest.CaptureFixture[str]) -> None:
    Path("c.yaml").write_text("dataset: toy\nknn_kk: 3\n")
    assert "c.yaml: unknown key `knn_kk`" in _error(["audit", "--config_files=c.yaml"], capfd)
    Path("c.yaml").write_text("dataset: toy\nmodel: LightGCN\nn_layers: 1\n")
    assert main(["audit", "--config_files=c.yaml"]) in (0, 1)
    assert "users" in capfd.readouterr().out
    assert "--config_files cannot be set for a run" in _error(
        ["audit", "--run=x", "--config_files=c.yaml"], capfd
    )
