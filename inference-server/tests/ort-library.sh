#!/usr/bin/env bash
# Prints the path of ONNX Runtime's library (CPU), taken from its PyPI wheel into the cache when it is not there yet.
# usage: FLOTILLA_REQUIRE_ORT=1 FLOTILLA_ORT_LIBRARY=$(inference-server/tests/ort-library.sh) cargo test -p flotilla-server
set -euo pipefail
folder=$("$(dirname "${BASH_SOURCE[0]}")/../../images/onnxruntime")
echo "$folder/libonnxruntime.so"
