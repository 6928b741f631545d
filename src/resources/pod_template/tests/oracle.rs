//! The Pod Security Standard "restricted" and Flotilla's contracts, read off the JSON of a pod template. Written apart from
//! the code under test, which works on types.

use serde_json::{Value, json};

/// Every rule of the standard (and the service-account token) that the template breaks.
pub fn violations(template: &Value) -> Vec<String> {
    let spec = &template["spec"];
    let mut found = Vec::new();
    let mut rule = |holds: bool, what: String| {
        if !holds {
            found.push(what);
        }
    };
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        rule(spec[field] != json!(true), field.to_owned());
    }
    rule(spec["automountServiceAccountToken"] == json!(false), "service account token".to_owned());
    rule(spec["os"].is_null() || spec["os"]["name"] == "linux", "os".to_owned());
    for volume in list(&spec["volumes"]) {
        for (kind, source) in volume.as_object().unwrap().iter().filter(|(key, _)| *key != "name") {
            let allowed = [
                "configMap",
                "csi",
                "downwardAPI",
                "emptyDir",
                "ephemeral",
                "image",
                "persistentVolumeClaim",
                "projected",
                "secret",
            ];
            rule(allowed.contains(&kind.as_str()), format!("volume type {kind}"));
            for projected in list(&source["sources"]) {
                rule(projected["serviceAccountToken"].is_null(), "projected token".to_owned());
            }
        }
    }
    for sysctl in list(&spec["securityContext"]["sysctls"]) {
        let safe = sysctl["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("net.ipv4.") || name == "kernel.shm_rmid_forced");
        rule(safe, format!("sysctl {sysctl}"));
    }
    for (key, value) in template["metadata"]["annotations"].as_object().into_iter().flatten() {
        if key.starts_with("container.apparmor.security.beta.kubernetes.io/") {
            rule(value == "runtime/default" || value.as_str().unwrap().starts_with("localhost/"), key.clone());
        }
    }
    let pod = &spec["securityContext"];
    for container in list(&spec["containers"]).iter().chain(list(&spec["initContainers"])) {
        let context = &container["securityContext"];
        let either = |field: &str| if context[field].is_null() { pod[field].clone() } else { context[field].clone() };
        let name = &container["name"];
        rule(either("runAsNonRoot") == json!(true), format!("{name} runAsNonRoot"));
        rule(context["runAsUser"] != json!(0) && pod["runAsUser"] != json!(0), format!("{name} runAsUser"));
        rule(confined(&either("seccompProfile")["type"]), format!("{name} seccomp"));
        rule(context["allowPrivilegeEscalation"] == json!(false), format!("{name} allowPrivilegeEscalation"));
        rule(context["privileged"] != json!(true), format!("{name} privileged"));
        rule(context["procMount"].is_null() || context["procMount"] == "Default", format!("{name} procMount"));
        rule(list(&context["capabilities"]["drop"]).contains(&json!("ALL")), format!("{name} capabilities.drop"));
        for added in list(&context["capabilities"]["add"]) {
            rule(added == "NET_BIND_SERVICE", format!("{name} capabilities.add {added}"));
        }
        for port in list(&container["ports"]) {
            rule(port["hostPort"].as_i64().unwrap_or(0) == 0, format!("{name} hostPort"));
        }
        for handler in
            ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/preStop", "/lifecycle/postStart"]
        {
            for action in ["httpGet", "tcpSocket"] {
                let host =
                    container.pointer(&format!("{handler}/{action}/host")).and_then(Value::as_str).unwrap_or_default();
                rule(host.is_empty(), format!("{name} {handler} host"));
            }
        }
    }
    let contexts = list(&spec["containers"])
        .iter()
        .chain(list(&spec["initContainers"]))
        .map(|container| &container["securityContext"]);
    for context in contexts.chain([pod]) {
        let app_armor = &context["appArmorProfile"]["type"];
        rule(app_armor.is_null() || confined(app_armor), "appArmorProfile".to_owned());
        rule(context["windowsOptions"]["hostProcess"] != json!(true), "hostProcess".to_owned());
        let selinux = &context["seLinuxOptions"];
        rule(selinux["user"].is_null() && selinux["role"].is_null(), "SELinux user or role".to_owned());
        let kind = selinux["type"].as_str().unwrap_or_default();
        rule(
            ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"].contains(&kind),
            format!("SELinux type {kind}"),
        );
    }
    found
}

/// What the operator relies on and the template lacks.
pub fn changed_contracts(template: &Value, selector: &Value, gpu: bool) -> Vec<String> {
    let spec = &template["spec"];
    let mut found = Vec::new();
    let mut rule = |holds: bool, what: &str| {
        if !holds {
            found.push(what.to_owned());
        }
    };
    for (key, value) in selector.as_object().unwrap() {
        rule(template["metadata"]["labels"][key] == *value, key);
    }
    let servers: Vec<_> = list(&spec["containers"]).iter().filter(|container| container["name"] == "server").collect();
    rule(servers.len() == 1, "one server");
    let server = servers[0];
    rule(server["image"] == "flotilla/server:test", "image");
    rule(server["command"].is_null(), "command");
    rule(server["args"] == json!(["--settings", "/etc/flotilla/settings.json"]), "args");
    rule(server["readinessProbe"]["httpGet"] == json!({"path": "/v2/health/ready", "port": "http"}), "readiness");
    rule(server["securityContext"]["readOnlyRootFilesystem"] == json!(true), "read-only root");
    rule(spec["terminationGracePeriodSeconds"].as_i64() >= Some(60), "grace period");
    for (name, number) in [("http", 8000), ("grpc", 8001), ("metrics", 8002)] {
        let ports = list(&spec["containers"])
            .iter()
            .chain(list(&spec["initContainers"]))
            .flat_map(|container| list(&container["ports"]));
        let claims = ports.filter(|port| port["name"] == name || port["containerPort"] == json!(number)).count();
        rule(claims == 1, name);
    }
    for path in ["/mnt/model", "/etc/flotilla"] {
        let mounts =
            list(&server["volumeMounts"]).iter().filter(|mount| mount["mountPath"].as_str().unwrap().contains(path));
        rule(mounts.count() == 1, path);
    }
    let wanted = if gpu { json!("1") } else { Value::Null };
    rule(server["resources"]["limits"]["nvidia.com/gpu"] == wanted, "GPU");
    if gpu {
        let terms = list(
            &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"],
        );
        let product = |term: &Value| {
            list(&term["matchExpressions"]).iter().any(|expression| expression["key"] == "nvidia.com/gpu.product")
        };
        rule(!terms.is_empty() && terms.iter().all(product), "product in every term");
    }
    found
}

fn confined(profile: &Value) -> bool {
    profile == "RuntimeDefault" || profile == "Localhost"
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
