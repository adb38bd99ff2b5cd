"""ONNX model in, training firmware out: graph, autodiff, lowering, code generation and the command line."""
