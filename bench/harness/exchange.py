"""What one request is, to each server: its body, path and headers, and where the answer has its values."""

import base64
import dataclasses
import json
import struct

LENGTH = "Inference-Header-Content-Length"


@dataclasses.dataclass
class Exchange:
    """For `flotilla-load`. `bodies` has one body for each sample."""

    path: str
    bodies: list
    answer: object
    headers: dict = dataclasses.field(default_factory=dict)
    protocol: str = "Http1"


def v2_binary(name, datatype, shape, data, width=0):
    """A request of KServe v2 with binary data, and its headers; white space fills its JSON up to a width."""
    tensor = {"name": name, "shape": shape, "datatype": datatype, "parameters": {"binary_data_size": len(data)}}
    header = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).ljust(width).encode()
    return header + data, {"Content-Type": "application/octet-stream", LENGTH: str(len(header))}


def v2_json(name, datatype, shape, data, parameters=None):
    """The same in JSON, as a client writes it that has a list."""
    tensor = {"name": name, "shape": shape, "datatype": datatype, "data": data}
    if parameters:
        tensor["parameters"] = parameters
    return json.dumps({"inputs": [tensor]}).encode()


def v2_grpc(name, datatype, shape, data):
    """A `ModelInferRequest`."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="model")
    tensor = request.inputs.add()
    tensor.name, tensor.datatype = name, datatype
    tensor.shape.extend(shape)
    request.raw_input_contents.append(data)
    return request.SerializeToString()


def bytes_tensor(elements):
    """A BYTES tensor's content: each element after its length."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def v2(materials, kind, protocol, name, image_shape):
    """KServe v2 in binary, for a server whose input has this name; `image_shape` is a BYTES tensor's for one image."""
    tensors = []
    for sample in materials.samples(kind):
        if kind == "jpeg":
            count = len(sample.images)
            tensors.append((name, "BYTES", [count, *image_shape[1:]], bytes_tensor(sample.images)))
        else:
            tensors.append((name, "FP32", list(sample.values.shape), sample.values.tobytes()))
    if protocol == "Grpc":
        bodies = [v2_grpc(*tensor) for tensor in tensors]
        return Exchange("/inference.GRPCInferenceService/ModelInfer", bodies, "Grpc", {}, "Grpc")
    # An image's length is in its header; one length of header serves all bodies where the shorter ones are filled up.
    width = max(int(v2_binary(*tensor)[1][LENGTH]) for tensor in tensors)
    written = [v2_binary(*tensor, width) for tensor in tensors]
    return Exchange("/v2/models/model/infer", [body for body, _ in written], "V2Binary", written[0][1])


def flotilla(materials, kind, protocol):
    """An image over HTTP is the body; the rest is V2 in binary."""
    if kind == "jpeg" and protocol == "Http1" and all(len(sample.images) == 1 for sample in materials.samples(kind)):
        bodies = [sample.images[0] for sample in materials.samples(kind)]
        headers = {LENGTH: "0"}
        return Exchange("/v2/models/model/infer", bodies, "V2Binary", headers)
    return v2(materials, kind, protocol, materials.input, [1])


def triton(materials, kind, protocol):
    return v2(materials, kind, protocol, "input", [1, 1])


def contents(materials, kind):
    return [sample.images[0] if kind == "jpeg" else sample.values.tobytes() for sample in materials.samples(kind)]


def fastapi(materials, kind, _):
    """The body is the image or the values, and the answer is the values."""
    return Exchange("/infer", contents(materials, kind), "Float32")


def mosec(materials, kind, _):
    return Exchange("/inference", contents(materials, kind), "Float32")


def bentoml(materials, kind, _):
    bodies = [json.dumps({"data": [base64.b64encode(part).decode()]}).encode() for part in contents(materials, kind)]
    headers = {"Content-Type": "application/json"}
    return Exchange("/infer", bodies, {"Json": ""}, headers)


def litserve(materials, kind, _):
    data = contents(materials, kind)
    bodies = [json.dumps({"data": base64.b64encode(part).decode()}).encode() for part in data]
    headers = {"Content-Type": "application/json"}
    return Exchange("/predict", bodies, {"Json": "/output"}, headers)


def mlserver(materials, kind, protocol):
    """V2 in JSON over HTTP, for it knows no binary data there."""
    if protocol == "Grpc":
        return v2(materials, kind, protocol, "input", [1, 1])
    bodies = []
    for sample in materials.samples(kind):
        if kind == "jpeg":
            data = [base64.b64encode(image).decode() for image in sample.images]
            bodies.append(v2_json("input", "BYTES", [len(data), 1], data, {"content_type": "base64"}))
        else:
            bodies.append(v2_json("input", "FP32", list(sample.values.shape), sample.values.ravel().tolist()))
    headers = {"Content-Type": "application/json"}
    return Exchange("/v2/models/model/infer", bodies, {"Json": "/outputs/0/data"}, headers)


def json_images(materials, _kind, _protocol):
    """Images in base64, as the study's FastAPI server took them."""
    bodies = [
        json.dumps({"images": [base64.b64encode(image).decode() for image in sample.images]}).encode()
        for sample in materials.samples("jpeg")
    ]
    headers = {"Content-Type": "application/json"}
    return Exchange("/infer-json", bodies, {"Json": "/embeddings"}, headers)
