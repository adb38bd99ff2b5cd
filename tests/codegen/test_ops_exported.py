"""A small transformer as torch.onnx.export writes it, by either exporter, trains as it does in PyTorch."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from poet_codegen.autodiff import build_training_graph, fuse_updates
from poet_codegen.graph import Kind
from poet_codegen.onnx_import import import_onnx, read_model

from .host_kernels import HostKernels

torch = pytest.importorskip("torch", reason="PyTorch is not installed; it is the oracle of this test")
nn = torch.nn

WORDS, TOKENS, WIDTH, HEADS, CLASSES = 20, 6, 16, 2, 3
STEPS, RATE = 5, 0.1


class Attention(nn.Module):  # type: ignore[misc,name-defined]
    """Multi-head self-attention."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x: Any) -> Any:
        batch, tokens, width = x.shape
        query, key, value = (
            layer(x).view(batch, tokens, HEADS, width // HEADS).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(width // HEADS), -1)
        return self.out((scores @ value).transpose(1, 2).reshape(batch, tokens, width))


class Transformer(nn.Module):  # type: ignore[misc,name-defined]
    """Embeddings, one encoder layer, a pooler and a classifier, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Embedding(TOKENS, WIDTH)
        self.register_buffer("order", torch.arange(TOKENS)[None])
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(3))
        self.attention = Attention()
        self.hidden = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))
        self.dropout = nn.Dropout(0.1)
        self.pooler, self.classifier = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, index: Any) -> Any:
        x = self.norms[0](self.words(index) + self.positions(self.order[:, : index.shape[1]]))
        x = self.norms[1](x + self.dropout(self.attention(x)))
        x = self.norms[2](x + self.hidden(x))
        return self.classifier(torch.tanh(self.pooler(x[:, 0])))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("dynamo", "opset"), [(False, 14), (True, 18)])
def test_transformer_follows_pytorch(dynamo: bool, opset: int, tmp_path: Path) -> None:
    if dynamo and importlib.util.find_spec("onnxscript") is None:
        pytest.skip("onnxscript is not installed; PyTorch's newer exporter needs it")
    torch.manual_seed(0)
    model = Transformer().eval()
    for norm in model.norms:  # exporters merge parameters of equal values
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.5, 0.5)
    index = torch.randint(0, WORDS, (1, TOKENS))
    path = tmp_path / "model.onnx"
    torch.onnx.export(model, (index,), str(path), dynamo=dynamo, opset_version=opset, verbose=False)
    imported = import_onnx(read_model(path))
    trainable = frozenset(t.name for t in imported.graph.of_kind(Kind.PARAM))
    assert len(trainable) == len(list(model.parameters())), "every parameter is one here"
    graph = fuse_updates(build_training_graph(imported.graph, trainable))
    kernels = HostKernels(tmp_path, [graph])
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    weights = dict(imported.weights)
    for step in range(STEPS):
        words = torch.randint(0, WORDS, (1, TOKENS))
        label = torch.tensor([step % CLASSES])
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(words), label)
        loss.backward()
        optimizer.step()
        fed = {graph.one(Kind.INPUT).name: words.numpy(), "label": label.numpy(), "learning_rate": np.float32(RATE)}
        result = kernels.run(graph, {**weights, **fed})
        assert float(result["loss"][0]) == pytest.approx(float(loss.detach()), rel=1e-4)
        weights |= {t.updates: result[name] for name, t in graph.tensors.items() if t.updates is not None}
