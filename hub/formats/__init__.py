"""Models of other formats: Marian comes in and goes out, CTranslate2 and ONNX go out."""
