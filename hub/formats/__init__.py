"""
Models of other formats: Marian comes in and goes out, CTranslate2 and ONNX go out, and several models become one.

In reading order, each file imports only those above it:

    limits              what the other formats cannot do
    parity              the proof that a converted model answers as its source
    marian_format       the same network under MarianMT's names
    ctranslate2_format  a runtime in C++
    onnx_format         two graphs for any ONNX runtime
    exporting           `chatformer export`
    importing           `chatformer import`
    ensembling          `chatformer ensemble`
"""
