//! The fetcher against servers of this machine that do what servers do: cut, redirect, refuse and lie.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail their test")]

mod fetch_common;

use std::fs;

use fetch_common::{Order, Web, files, gzip, noise, sha256, tar};
use serde_json::json;
use tar::EntryType::{Directory, Regular};

const ETAG: &str = "\"one\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_file_becomes_a_model_entry_and_is_fetched_once() {
    let web = Web::start().await;
    web.file("/clip.onnx?sig=secret", b"weights", ETAG);
    let order =
        Order::new(&format!("{}/clip.onnx?sig=secret", web.url), &[("HTTPS_TOKEN", "t0k")]).sha256(&sha256(b"weights"));
    let receipt = order.fetch().await.unwrap();
    assert_eq!((receipt.sha256, receipt.bytes, receipt.files), (sha256(b"weights"), 7, 1));
    assert_eq!(order.read("1/model.onnx"), b"weights");
    assert_eq!(web.asked()[0].authorization.as_deref(), Some("Bearer t0k"));
    assert!(!order.partial().exists());

    order.fetch().await.unwrap();
    assert_eq!(web.asked(), [], "what is there is not asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_goes_on_where_it_was() {
    let web = Web::start().await;
    let content = noise(1 << 20);
    web.file("/m.onnx", &content, ETAG).cut(&[300_000, 500_000]);
    let order = Order::new(&format!("{}/m.onnx", web.url), &[]);
    assert_eq!(order.fetch().await.unwrap().sha256, sha256(&content));
    let ranges: Vec<_> = web.asked().into_iter().map(|asked| asked.range).collect();
    // A busy machine may lose the last bytes before a cut.
    let begins: Vec<usize> = ranges
        .iter()
        .map(|range| {
            range.as_ref().map_or(0, |range| range.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap())
        })
        .collect();
    assert!(begins.len() == 3 && begins[0] == 0, "{ranges:?}");
    assert!(0 < begins[1] && begins[1] <= 300_000 && begins[1] < begins[2] && begins[2] <= 800_000, "{ranges:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_run_goes_on_where_one_was_stopped() {
    let web = Web::start().await;
    let content = noise(1 << 20);
    web.file("/m.onnx", &content, ETAG).stall(300_000);
    let order = Order::new(&format!("{}/m.onnx", web.url), &[]);
    order.stopped_after("m.onnx", 300_000).await;
    web.asked();
    assert_eq!(order.fetch().await.unwrap().sha256, sha256(&content));
    assert_eq!(web.asked()[0].range.as_deref(), Some("bytes=300000-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changed_is_begun_again() {
    let web = Web::start().await;
    web.file("/m.onnx", &noise(1 << 20), ETAG).stall(300_000);
    let order = Order::new(&format!("{}/m.onnx", web.url), &[]);
    order.stopped_after("m.onnx", 300_000).await;
    web.file("/m.onnx", b"another one", "\"two\"");
    assert_eq!(order.fetch().await.unwrap().sha256, sha256(b"another one"));
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_say_why_and_hold_no_secret() {
    let web = Web::start().await;
    let secret = "<Error><Code>AccessDenied</Code><Key>AKIASECRET</Key></Error>";
    web.answer("/forbidden.onnx?sig=QUERYSECRET", 403, &[], secret).answer(
        "/odd.onnx?sig=QUERYSECRET",
        405,
        &[],
        secret,
    );
    web.file("/large.onnx?sig=QUERYSECRET", &noise(2000), ETAG).file("/m.onnx?sig=QUERYSECRET", b"weights", ETAG);
    for (path, max_bytes, sha, reason, says) in [
        ("/missing.onnx", 1000, None, "SourceNotFound", "nothing at"),
        ("/forbidden.onnx", 1000, None, "SourceForbidden", "AccessDenied"),
        ("/odd.onnx", 1000, None, "SourceInvalid", "405"),
        ("/large.onnx", 1000, None, "SourceTooLarge", "1000 bytes"),
        ("/m.onnx", 1000, Some("00".repeat(32)), "ChecksumMismatch", "is asked for"),
    ] {
        let credentials = [("HTTPS_USERNAME", "me"), ("HTTPS_PASSWORD", "pw")];
        let mut order = Order::new(&format!("{}{path}?sig=QUERYSECRET", web.url), &credentials).max_bytes(max_bytes);
        order.request.sha256 = sha;
        let (found, text) = order.failure().await;
        assert!(found == reason && text.contains(says), "{path}: {text}");
        assert!(!text.contains("SECRET") && !text.contains("bWU6cHc"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_lead_where_they_may() {
    let (web, other) = (Web::start().await, Web::start().await);
    other.file("/m.onnx", b"weights", ETAG);
    web.file("/moved/m.onnx", b"weights", ETAG);
    for (path, target) in [
        ("/same.onnx", "/moved/m.onnx".to_owned()),
        ("/inside.onnx", format!("{}/m.onnx", other.url)),
        ("/metadata.onnx", "http://169.254.169.254/latest/meta-data".to_owned()),
        ("/name.onnx", "http://localhost:1/m.onnx".to_owned()),
        ("/other-name.onnx", "http://[::ffff:10.0.0.1]/m.onnx".to_owned()),
        ("/loop.onnx", "/loop.onnx".to_owned()),
        ("/file.onnx", "file:///etc/passwd".to_owned()),
    ] {
        web.answer(path, 302, &[("location", &target)], "");
    }
    let order = |path: &str| Order::new(&format!("{}{path}", web.url), &[("HTTPS_TOKEN", "t0k")]);
    order("/same.onnx").fetch().await.unwrap();
    for path in ["/inside.onnx", "/metadata.onnx", "/name.onnx", "/other-name.onnx", "/loop.onnx", "/file.onnx"] {
        let (reason, text) = order(path).failure().await;
        assert_eq!(reason, "RedirectRefused", "{path}: {text}");
    }
    assert_eq!(other.asked(), [], "nothing was sent to where a redirect may not lead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_has_to_prove_who_it_is_and_encryption_is_not_given_up() {
    let (web, certificate) = Web::start_tls().await;
    let plain = Web::start().await;
    web.file("/m.onnx", b"weights", ETAG).answer(
        "/down.onnx",
        302,
        &[("location", &format!("{}/m.onnx", plain.url))],
        "",
    );
    let order = |path: &str, pem: &str| Order::new(&format!("{}{path}", web.url), &[("CA_CERTIFICATES", pem)]);
    order("/m.onnx", &certificate).fetch().await.unwrap();
    let (reason, text) = order("/m.onnx", "").failure().await;
    assert!(reason == "SourceUnreachable" && text.contains("certificate is not accepted"), "{text}");
    let (reason, text) = order("/m.onnx", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----").failure().await;
    assert!(reason == "SourceInvalid" && text.contains("CA_CERTIFICATES"), "{text}");
    let (reason, text) = order("/down.onnx", &certificate).failure().await;
    assert!(reason == "RedirectRefused" && text.contains("without encryption"), "{text}");
    assert_eq!(plain.asked(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_are_unpacked_into_their_folder_alone() {
    let web = Web::start().await;
    let good = [
        ("clip/", Directory, &b""[..]),
        ("clip/config.pbtxt", Regular, b"name: \"clip\""),
        ("clip/1/model.onnx", Regular, b"weights"),
    ];
    web.file("/m.tar", &tar(&good), ETAG).file("/m.tar.gz", &gzip(&tar(&good)), ETAG);
    for path in ["/m.tar", "/m.tar.gz"] {
        let order = Order::new(&format!("{}{path}", web.url), &[]);
        order.fetch().await.unwrap();
        assert_eq!(files(&order.request.destination), [".flotilla-fetch.json", "1/model.onnx", "config.pbtxt"]);
    }

    let hostile: Vec<(&str, Vec<u8>, &str)> = vec![
        ("absolute", tar(&[("/tmp/evil", Regular, b"x")]), "absolute"),
        ("up", tar(&[("1/../../evil", Regular, b"x")]), "leads out"),
        ("symlink", tar(&[("1", tar::EntryType::Symlink, b"/etc")]), "neither a file"),
        ("hard link", tar(&[("1/model.onnx", tar::EntryType::Link, b"/etc/passwd")]), "neither a file"),
        ("device", tar(&[("1/null", tar::EntryType::Char, b"")]), "neither a file"),
        ("fifo", tar(&[("1/pipe", tar::EntryType::Fifo, b"")]), "neither a file"),
        ("twice", tar(&[("1/model.onnx", Regular, b"a"), ("1/model.onnx", Regular, b"b")]), "twice"),
        ("many", tar(&vec![("1/", Directory, &b""[..]); 10_001]), "entries"),
        ("cut", tar(&[("1/model.onnx", Regular, &noise(5000))])[..3000].to_vec(), "ends within"),
        ("no tar", noise(5000), "no whole tar"),
        ("long name", tar(&[("x", tar::EntryType::GNULongName, &[b'a'; 1 << 20])]), "header"),
    ];
    for (what, archive, says) in hostile {
        web.file("/evil.tar", &archive, &format!("\"{what}\""));
        let (reason, text) = Order::new(&format!("{}/evil.tar", web.url), &[]).failure().await;
        assert!(reason == "ArchiveInvalid" && text.contains(says), "{what}: {text}");
    }
    assert!(!fs::exists("/tmp/evil").unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bomb_is_stopped_by_its_ratio_and_by_the_room() {
    let web = Web::start().await;
    let bomb = gzip(&tar(&[("1/model.onnx", Regular, &vec![0; 40 << 20])]));
    web.file("/bomb.tgz", &bomb, ETAG);
    let order = || Order::new(&format!("{}/bomb.tgz", web.url), &[]);
    let (reason, text) = order().failure().await;
    assert!(reason == "ArchiveInvalid" && text.contains("100 times"), "{text}");
    let (reason, text) = order().max_bytes(8 << 20).failure().await;
    assert!(reason == "SourceTooLarge" && text.contains("with its content"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hugging_face_repository_by_its_api() {
    let web = Web::start().await;
    let sha = "0123456789abcdef0123456789abcdef01234567";
    let data = noise(100_000);
    let entry = |path: &str, content: &[u8], lfs: bool| {
        let lfs = lfs.then(|| json!({"oid": sha256(content), "size": content.len(), "pointerSize": 130}));
        json!({"type": "file", "path": path, "size": content.len(), "oid": "abc", "lfs": lfs})
    };
    let tree = |entries: serde_json::Value| entries.to_string();
    let base = format!("/api/models/org/repo/tree/{sha}/onnx");
    let next = format!("<{}{base}?cursor=2>; rel=\"next\"", web.url);
    web.answer("/api/models/org/repo/revision/v1", 200, &[], &json!({"sha": sha}).to_string())
        .answer(
            &base,
            200,
            &[("link", &next)],
            &tree(json!([
                {"type": "directory", "path": "onnx/old", "size": 0, "oid": "d"},
                entry("onnx/model.onnx", b"graph", false),
                entry("onnx/model_fp16.onnx", b"other", false),
            ])),
        )
        .answer(&format!("{base}?cursor=2"), 200, &[], &tree(json!([entry("onnx/model.onnx_data", &data, true)])))
        .answer(&format!("/org/repo/resolve/{sha}/onnx/model.onnx_data"), 302, &[("location", "/cdn/data?sig=x")], "")
        .file("/cdn/data?sig=x", &data, ETAG)
        .file(&format!("/org/repo/resolve/{sha}/onnx/model.onnx"), b"graph", "\"g\"");
    let credentials = [("HF_ENDPOINT", web.url.as_str()), ("HF_TOKEN", "hf_x")];
    let order = Order::new("hf://org/repo@v1/onnx/model.onnx", &credentials);
    let receipt = order.fetch().await.unwrap();
    assert_eq!((order.read("1/model.onnx"), order.read("1/model.onnx_data")), (b"graph".to_vec(), data.clone()));
    let lines = format!("{}  model.onnx\n{}  model.onnx_data\n", sha256(b"graph"), sha256(&data));
    assert_eq!((receipt.files, receipt.sha256), (2, sha256(lines.as_bytes())));
    assert!(web.asked().iter().all(|asked| asked.authorization.as_deref() == Some("Bearer hf_x")));

    // What the hub vouches for is checked.
    web.file("/cdn/data?sig=x", &noise(99_999), ETAG);
    let (reason, _) = Order::new("hf://org/repo@v1/onnx/model.onnx", &credentials).failure().await;
    assert!(["ChecksumMismatch", "SourceUnreachable"].contains(&reason.as_str()), "{reason}");
    let (reason, _) = Order::new("hf://org/repo@v1/onnx/none.onnx", &credentials).failure().await;
    assert_eq!(reason, "SourceNotFound");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_google_bucket_by_the_xml_api_without_credentials() {
    let web = Web::start().await;
    let object = |key: &str, content: &[u8]| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"e\"</ETag><Size>{}</Size></Contents>",
            content.len()
        )
    };
    let list = format!(
        "<ListBucketResult>{}{}</ListBucketResult>",
        object("clip/1/model.onnx", b"graph"),
        object("clip/config.pbtxt", b"name")
    );
    web.answer("/models?list-type=2&prefix=clip%2F", 200, &[], &list)
        .file("/models/clip%2F1%2Fmodel%2Eonnx", b"graph", "\"e\"")
        .file("/models/clip%2Fconfig%2Epbtxt", b"name", "\"e\"");
    let order = Order::new("gs://models/clip", &[("GOOGLE_ENDPOINT_URL", &web.url)]);
    let fetched = order.fetch().await;
    assert!(fetched.is_ok(), "{fetched:?} {:?}", web.asked());
    assert_eq!(files(&order.request.destination), [".flotilla-fetch.json", "1/model.onnx", "config.pbtxt"]);
    assert!(web.asked().iter().all(|asked| asked.authorization.is_none()));
}
