"""The calls around generation: what is served, tokens and text, health, reflection."""

import json
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from common.manifest import MANIFEST_FILE
from tandem.v1 import inference_service_pb2 as pb
from tests.support.cluster import Cluster
from tests.support.problems import problem_of
from tests.support.tiny_model import END_OF_TURN_ID, TinyModel

SERVICE = "tandem.v1.InferenceService"
TEXTS = [
    "",
    "Hello, world!",
    "naïve café — 東京 🌊🏽",
    "def f(x):\n\treturn x ** 2\n",
    "  spaces   and\r\nlines  ",
    "1234567",
]


def test_get_model(tiny_cluster: Cluster, tiny_model: TinyModel) -> None:
    model = tiny_cluster.stub.GetModel(pb.GetModelRequest())
    manifest = json.loads((tiny_model.folder / MANIFEST_FILE).read_text())
    assert (model.name, model.architecture, model.dtype, model.quantization) == ("tiny", "llama", "float32", "none")
    assert (model.tensor_parallel_size, model.vocabulary_size, model.context_length) == (1, 263, 4096)
    assert model.max_new_tokens == 4096  # the gateway's own limit is larger than the context
    assert list(model.end_of_text_ids) == [END_OF_TURN_ID] and model.has_chat_template
    assert model.tokenizer_hash == manifest["tokenizer"]["sha256"]
    assert len(model.checkpoint_hash) == 64


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_round_trip(tiny_cluster: Cluster, smollm_cluster: Cluster, text: str) -> None:
    for cluster in (tiny_cluster, smollm_cluster):
        ids = cluster.stub.Tokenize(pb.TokenizeRequest(text=text)).token_ids
        assert cluster.stub.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text == text


def test_detokenize_leaves_special_tokens_out_and_marks_broken_bytes(tiny_cluster: Cluster) -> None:
    ids = list(tiny_cluster.stub.Tokenize(pb.TokenizeRequest(text="aé")).token_ids)
    cut = tiny_cluster.stub.Detokenize(pb.DetokenizeRequest(token_ids=[*ids[:2], END_OF_TURN_ID, ids[0]]))
    assert cut.text == "a\ufffda"


def test_chat_is_rendered_with_the_models_template(smollm_cluster: Cluster, embedded_model: Path) -> None:
    messages = [pb.ChatMessage(role="system", content="Be brief."), pb.ChatMessage(role="user", content="Hi!")]
    ids = smollm_cluster.stub.Tokenize(pb.TokenizeRequest(chat=pb.ChatMessages(messages=messages))).token_ids
    special = json.loads((embedded_model / "tokenizer.json").read_text())["added_tokens"]
    by_name = {token["content"]: token["id"] for token in special}
    assert [i for i in ids if i in by_name.values()] == [
        by_name[f"<|im_{t}|>"] for t in ["start", "end", "start", "end", "start"]
    ]
    text = smollm_cluster.stub.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text
    assert text == "system\nBe brief.\nuser\nHi!\nassistant\n"


def test_health(tiny_cluster: Cluster) -> None:
    health = health_pb2_grpc.HealthStub(tiny_cluster.client.channel)
    for service in ("", SERVICE):
        assert health.Check(health_pb2.HealthCheckRequest(service=service)).status == 1  # SERVING
        watch = health.Watch(health_pb2.HealthCheckRequest(service=service))
        assert next(watch).status == 1
        watch.cancel()
    unknown = problem_of(health.Check, health_pb2.HealthCheckRequest(service="nothing"))
    assert unknown.code is grpc.StatusCode.NOT_FOUND


def test_reflection_tells_the_whole_contract(tiny_cluster: Cluster) -> None:
    database = ProtoReflectionDescriptorDatabase(tiny_cluster.client.channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    file = database.FindFileContainingSymbol(SERVICE)
    assert [method.name for method in file.service[0].method] == [
        m.name for m in pb.DESCRIPTOR.services_by_name["InferenceService"].methods
    ]
