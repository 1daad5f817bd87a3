"""The catalogue's shapes are the models': their parameters are as many as their publishers say."""

from pathlib import Path

import pytest

from common.errors import CheckpointError
from common.model_store import EMBEDDED_MODEL, model_folder
from shard_worker.checkpoint.catalog import known_models
from shard_worker.checkpoint.wanted import Wanted, wanted
from shard_worker.sizing import parameters

# Totals of the checkpoints' own safetensors headers, as the hub shows them, or of the papers' and repositories' tables.
# Tied embeddings count once.
PUBLISHED = {
    "stories15m": 15_191_712,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-7b": 6_738_415_616,
    "llama-13b": 13_015_864_320,
    "llama-30b": 32_528_943_616,
    "llama-65b": 65_285_660_672,
    "open-llama-3b": 3_426_473_600,
    "llama-2-7b": 6_738_415_616,
    "llama-2-70b": 68_976_648_192,
    "codellama-34b-python": 33_743_970_304,
    "llama-3-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "llama-3.1-405b": 405_853_388_800,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "phi-3-mini": 3_821_079_552,
    "phi-3-medium": 13_960_238_080,
    "phi-4-mini": 3_836_021_760,
    "phi-4": 14_659_507_200,
    "dbrx": 131_596_523_520,
    "baichuan-7b": 7_000_559_616,
    "baichuan-13b": 13_264_901_120,
    "baichuan2-7b": 7_505_973_248,
    "baichuan2-13b": 13_896_668_160,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name: str) -> None:
    assert parameters(known_models()[name].shape.architecture()) == PUBLISHED[name]


def test_names_are_names_of_the_store_and_hub_ids_are_ids() -> None:
    models = known_models()
    assert EMBEDDED_MODEL not in models
    for name, model in models.items():
        assert "/" not in name and name == name.lower()
        assert model_folder(name).name == name
        assert all(hub_id.count("/") == 1 and model_folder(hub_id) for hub_id in model.hub_ids)
        assert model.shape.heads[0] % model.shape.heads[1] == 0


def test_a_listed_name_means_its_repository() -> None:
    assert wanted(EMBEDDED_MODEL) == Wanted(EMBEDDED_MODEL)
    assert wanted("qwen3-8b") == Wanted("qwen3-8b", repository="Qwen/Qwen3-8B")
    assert wanted("owner/name") == Wanted("owner/name", repository="owner/name")
    stories = Wanted("stories15m", repository="karpathy/tinyllamas", file="stories15M.pt")
    assert wanted("stories15m") == wanted("stories15M") == stories, "capitals do not count"
    assert wanted("SmolLM2-135M-Instruct") == Wanted(EMBEDDED_MODEL)
    assert wanted("Owner/Name") == Wanted("Owner/Name", repository="Owner/Name")


def test_a_path_means_what_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some-model").mkdir()
    (tmp_path / "file.Q8_0.gguf").touch()
    (tmp_path / "qwen3-8b").mkdir()
    (tmp_path / "Qwen3-4B").mkdir()
    assert wanted(str(tmp_path / "some-model")) == Wanted("some-model", path=tmp_path / "some-model")
    assert wanted(str(tmp_path / "file.Q8_0.gguf")).name == "file.Q8_0"
    monkeypatch.chdir(tmp_path)
    assert wanted("some-model/").name == "some-model"
    assert wanted("qwen3-8b").path is None, "a listed name is that, whatever lies here"
    assert wanted("./qwen3-8b").path == Path("qwen3-8b")
    assert wanted("Qwen3-4B") == Wanted("Qwen3-4B", path=Path("Qwen3-4B")), "a path that is written so comes first"
    assert wanted("QWEN3-4B").name == "qwen3-4b", "and else capitals do not count"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("qwen3-8", "Did you mean qwen3-8b"),
        ("smollm2-135m-instrct", "Did you mean smollm2-135m-instruct"),
        ("gpt5", "nor another name that `tandem models` lists"),
        ("karpathy/tinyllamas", "holds several models; name one of stories15m, stories42m, stories110m"),
    ],
)
def test_what_cannot_be_fetched_is_said_why(name: str, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        wanted(name)
