//! The server on the real ONNX Runtime. Without its library these tests say so; where it is required, they fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]
#![allow(clippy::float_cmp, reason = "metrics count whole things")]

mod common;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use common::{Server, fixture, json_of};
use flotilla_server::failure::Reason;
use serde_json::{Value, json};

const INFER: &str = "/v2/models/tiny-image/infer";

fn images() -> Value {
    json!({"model": {"preprocessing": {"preset": "Clip"}}})
}

fn photo(name: &str) -> Vec<u8> {
    std::fs::read(fixture("images").join(name)).unwrap()
}

/// The mean of each channel of an image as CLIP normalises it: the model's second output, computed here.
fn means(expected: &str) -> Vec<f64> {
    let file = photo(expected);
    let mut reader = png::Decoder::new(std::io::Cursor::new(file.as_slice())).read_info().unwrap();
    let mut rgb = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut rgb).unwrap();
    let (mean, deviation) = ([0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_58, 0.275_777_11]);
    (0..3)
        .map(|channel| {
            let sum: f64 = rgb.iter().skip(channel).step_by(3).map(|value| f64::from(*value) / 255.0).sum();
            (sum / (32.0 * 32.0) - mean[channel]) / deviation[channel]
        })
        .collect()
}

fn assert_close(found: &Value, expected: &[f64], tolerance: f64) {
    let found: Vec<f64> = found.as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    assert_eq!(found.len(), expected.len());
    let close = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= tolerance);
    assert!(close, "{found:?} is not {expected:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_what_pillow_makes_of_it_in_every_form_of_a_request() {
    let Some(server) = Server::onnx("tiny-image", images()).await else { return };
    let wide = photo("wide.png");
    let expected = means("wide.clip.expected.png");

    // As the body.
    let response = server.post(INFER).header("content-type", "image/png").body(wide.clone()).send().await.unwrap();
    assert_eq!(response.status(), 200);
    let body = json_of(response).await;
    assert_eq!(body["outputs"][0]["name"], "embedding");
    assert_eq!(body["outputs"][0]["shape"], json!([1, 4]));
    assert_close(&body["outputs"][1]["data"], &expected, 1e-4);

    // As a raw binary request.
    let request = server.post(INFER).header("inference-header-content-length", "0").body(wide.clone());
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let split: usize = response.headers()["inference-header-content-length"].to_str().unwrap().parse().unwrap();
    let bytes = response.bytes().await.unwrap();
    let blobs: Vec<f64> =
        bytes[split..].as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect();
    assert_close(&json!(blobs[4..]), &expected, 1e-4);

    // As base64 in JSON, three at once, of different sizes and kinds; only the second output is asked for.
    let files = ["large.png", "lossless.webp", "photo.jpg"];
    let data: Vec<String> = files.iter().map(|name| STANDARD.encode(photo(name))).collect();
    let request = json!({
        "inputs": [{"name": "pixel_values", "shape": [3, 1], "datatype": "BYTES", "data": data}],
        "outputs": [{"name": "means"}],
    });
    let (status, body) = server.infer("tiny-image", &request).await;
    assert_eq!((status, body["outputs"].as_array().unwrap().len()), (200, 1), "{body}");
    let found = body["outputs"][0]["data"].as_array().unwrap();
    assert_close(&json!(found[..3]), &means("large.clip.expected.png"), 1e-4);
    assert_close(&json!(found[3..6]), &expected, 1e-4);
    assert_close(&json!(found[6..]), &means("photo.clip.expected.png"), 1e-2);

    // As a BYTES tensor behind the JSON.
    let header = json!({"inputs": [
        {"name": "pixel_values", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 4 + wide.len()}},
    ]})
    .to_string();
    let length = u32::try_from(wide.len()).unwrap().to_le_bytes();
    let body = [header.as_bytes(), &length, &wide].concat();
    let request = server.post(INFER).header("inference-header-content-length", header.len().to_string()).body(body);
    let body = json_of(request.send().await.unwrap()).await;
    assert_close(&body["outputs"][1]["data"], &expected, 1e-4);

    let decoded = server.metric(r#"flotilla_decode_duration_seconds_count{model="tiny-image",version="1"}"#).await;
    assert!((decoded - 6.0).abs() < f64::EPSILON, "{decoded} decoded");
    assert!(server.page().await.contains(r#"flotilla_server_info{model="tiny-image",model_sha256=""#));
    assert!(server.page().await.contains(r#"provider="Cpu""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn pixels_can_be_sent_to_the_same_input() {
    let Some(server) = Server::onnx("tiny-image", images()).await else { return };
    let data = vec![0.25; 2 * 3 * 32 * 32];
    let request =
        json!({"inputs": [{"name": "pixel_values", "shape": [2, 3, 32, 32], "datatype": "FP32", "data": data}]});
    let (status, body) = server.infer("tiny-image", &request).await;
    assert_eq!(status, 200);
    assert_close(&body["outputs"][1]["data"], &[0.25; 6], 1e-5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_costs_its_sender_an_error_and_nobody_else_anything() {
    let Some(server) = Server::onnx("tiny-image", images()).await else { return };
    let broken = photo("photo.jpg")[..500].to_vec();
    for (file, status) in [(broken, 400), (b"no image".to_vec(), 400), (Vec::new(), 400), (photo("wide.png"), 200)] {
        let response = server.post(INFER).header("content-type", "image/jpeg").body(file).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status);
        if status == 400 {
            let error = json_of(response).await["error"].as_str().unwrap().to_owned();
            assert!(error.starts_with("image 0: it can't be decoded as JPEG, PNG or WebP"), "{error}");
        }
    }
    assert!(
        server.metric(r#"nv_inference_request_failure{model="tiny-image",reason="OTHER",version="1"}"#).await > 2.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_of_the_protocol_goes_in_and_comes_out() {
    let Some(server) = Server::onnx("types", json!({})).await else { return };
    let metadata = server.get_json("/v2/models/types").await;
    let names: Vec<&str> =
        metadata["inputs"].as_array().unwrap().iter().map(|input| input["datatype"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 13);
    let value = |name: &str| match name {
        "BOOL" => json!([true, false]),
        "BYTES" => json!(["née", ""]),
        "UINT64" => json!([u64::MAX, 1]),
        "INT64" => json!([i64::MIN, 1]),
        "INT8" => json!([-128, 127]),
        "FP32" | "FP64" => json!([0.5, -2.0]),
        _ => json!([1, 200]),
    };
    // FP16 has no form in JSON, so its input is binary; its output comes as numbers.
    let half: Vec<u8> = [0x3800_u16, 0xc000].iter().flat_map(|bits| bits.to_le_bytes()).collect();
    let inputs: Vec<Value> = names
        .iter()
        .map(|name| {
            let mut input = json!({"name": format!("in_{name}"), "shape": [1, 2], "datatype": name});
            if *name == "FP16" {
                input["parameters"] = json!({"binary_data_size": 4});
            } else {
                input["data"] = value(name);
            }
            input
        })
        .collect();
    let header = json!({"inputs": inputs}).to_string();
    let request = server
        .post("/v2/models/types/infer")
        .header("inference-header-content-length", header.len().to_string())
        .body([header.as_bytes(), &half].concat());
    let body = json_of(request.send().await.unwrap()).await;
    for name in names {
        let output = body["outputs"].as_array().unwrap_or_else(|| panic!("{body}"));
        let output = output.iter().find(|output| output["name"] == format!("out_{name}")).unwrap();
        assert_eq!(output["datatype"], name);
        assert!(output.get("parameters").is_none(), "{name}: values in JSON come without parameters");
        let expected = if name == "FP16" { json!([0.5, -2.0]) } else { value(name) };
        assert_eq!(output["data"], expected, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_loaded_ends_the_start_with_its_reason() {
    let Some(library) = common::library() else { return };
    let garbage = tempfile::tempdir().unwrap();
    std::fs::create_dir(garbage.path().join("1")).unwrap();
    std::fs::write(garbage.path().join("1/model.onnx"), b"this is no model").unwrap();
    let tiny = fixture("tiny-image");
    let nowhere = std::path::PathBuf::from("/nowhere/libonnxruntime.so");
    for (path, settings, library, reason) in [
        (garbage.path(), json!({}), Some(library.clone()), Reason::ModelLoadFailed),
        (tiny.as_path(), json!({"executionProvider": "Cuda"}), Some(library.clone()), Reason::ProviderUnavailable),
        (tiny.as_path(), json!({"executionProvider": "TensorRt"}), Some(library.clone()), Reason::ProviderUnavailable),
        (tiny.as_path(), json!({}), None, Reason::LibraryNotFound),
        (tiny.as_path(), json!({}), Some(nowhere), Reason::LibraryNotFound),
        (std::path::Path::new("/nowhere"), json!({}), Some(library.clone()), Reason::ModelNotFound),
        (fixture("types").as_path(), images(), Some(library.clone()), Reason::SettingsInvalid),
    ] {
        let server = Server::start(tempfile::tempdir().unwrap(), "m", path, settings.clone(), library).await;
        let failure = server.ended().await.unwrap_err();
        assert_eq!(failure.reason, reason, "{settings}: {failure}");
        assert!(!failure.fix.is_empty());
    }
    // Auto is not that strict: a library without CUDA runs on the CPU, and the info metric says so.
    let auto = json!({"executionProvider": "Auto"});
    let server = Server::onnx("tiny-image", auto).await.unwrap();
    let page = server.page().await;
    assert!(page.contains(r#"provider="Cpu""#));
    for part in ["nv_model_load_duration_secs{", r#"phase="sha256""#, r#"phase="session""#, r#"phase="warm_up_1""#] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    assert!(!page.contains("nv_gpu_"), "no GPU, no series");
    let config = server.get_json("/v2/models/tiny-image/config").await;
    assert_eq!(config["parameters"]["execution_provider"]["string_value"], "Cpu");
    let reason = config["parameters"]["execution_provider_reason"]["string_value"].as_str().unwrap();
    assert_eq!(reason, "the library has nothing but the CPU");
}
