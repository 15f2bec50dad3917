//! Every error has its document, every route its place in the OpenAPI document.

use std::collections::BTreeSet;

use axum::body::Body;
use axum::http::response::Parts;
use axum::http::{Request, header};
use http_body_util::BodyExt;
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use serde_json::Value;
use utoipa::OpenApi;

use super::*;
use crate::api::openapi::Document;
use crate::api::wire::{Problem, ReplicaKind};
use crate::node::testing::{PaperReplicas, node, replica};

/// Sends one request to a node that has a few replicas and nothing else.
async fn send(method: &str, path: &str, headers: &[(&str, &str)], body: impl Into<Body>) -> (Parts, Vec<u8>) {
    let kinds = [("view", ReplicaKind::View), ("busy", ReplicaKind::View), ("clone", ReplicaKind::Clone)];
    let fixture = node(PaperReplicas::of(kinds.map(|(id, kind)| replica(id, kind)))).await;
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.into()).unwrap();
    let (parts, body) =
        TowerToHyperService::new(router(fixture.node)).call(request).await.unwrap().into_parts();
    (parts, body.collect().await.unwrap().to_bytes().to_vec())
}

const JSON: &[(&str, &str)] = &[("content-type", "application/json")];

#[track_caller]
fn problem(parts: &Parts, body: &[u8]) -> Problem {
    let problem: Problem = serde_json::from_slice(body).unwrap();
    let text = |name: &str| parts.headers[name].to_str().unwrap().to_owned();
    assert_eq!(text("content-type"), "application/problem+json");
    assert_eq!(problem.request_id, Some(text("x-request-id")));
    assert_eq!(problem.status, parts.status.as_u16());
    assert_eq!(problem.r#type, format!("urn:twinshare:problem:{}", problem.code));
    assert!(!problem.detail.is_empty() && !problem.title.is_empty());
    assert!(problem.hint.is_some());
    problem
}

/// A request and the status, code and part of the detail of its answer.
async fn check(method: &str, path: &str, headers: &[(&str, &str)], body: &str, expected: (u16, &str, &str)) {
    let (parts, answer) = send(method, path, headers, body.to_owned()).await;
    let problem = problem(&parts, &answer);
    assert_eq!(
        (problem.status, problem.code.as_str()),
        (expected.0, expected.1),
        "{method} {path}: {problem:?}"
    );
    assert!(problem.detail.contains(expected.2), "{method} {path}: {}", problem.detail);
}

#[tokio::test]
async fn every_error_is_a_problem_document() {
    let lost = (404, "no_such_route", "/api/v1/nowhere");
    check("GET", "/api/v1/nowhere", &[], "", lost).await;
    check("GET", "/", &[], "", (404, "no_such_route", "at /")).await;
    check("GET", "/api/v1", &[], "", (404, "no_such_route", "/api/v1")).await;
    check("GET", "/api/v1/health/", &[], "", (404, "no_such_route", "/api/v1/health/")).await;
    check(
        "PATCH",
        "/api/v1/mounts",
        &[],
        "",
        (405, "method_not_allowed", "/api/v1/mounts does not take PATCH"),
    )
    .await;
    check("DELETE", "/api/v1/health", &[], "", (405, "method_not_allowed", "DELETE")).await;
    check("GET", "/api/v1/mounts/none", &[], "", (404, "no_such_replica", "no mount none")).await;
    check("GET", "/api/v1/mounts/clone", &[], "", (404, "no_such_replica", "no mount clone")).await;
    check("DELETE", "/api/v1/clones/view", &[], "", (404, "no_such_replica", "no clone view")).await;
    check("GET", "/api/v1/mounts/%ff", &[], "", (400, "invalid_path", "UTF-8")).await;
    check("GET", "/api/v1/mounts/panics", &[], "", (500, "internal", "inside the node")).await;
    check("GET", "/api/v1/operations/test-1", &[], "", (404, "no_such_operation", "test-1")).await;
    check("DELETE", "/api/v1/operations/x", &[], "", (404, "no_such_operation", "x")).await;
    check("GET", "/api/v1/operations/x?wait=soon", &[], "", (400, "invalid_query", "wait")).await;
    check("POST", "/api/v1/peers", JSON, "{", (400, "invalid_body", "EOF")).await;
    check("POST", "/api/v1/peers", JSON, "{}", (400, "invalid_body", "address")).await;
    check("POST", "/api/v1/peers", JSON, r#"{"address": 5}"#, (400, "invalid_body", "address")).await;
    let misspelt = r#"{"address": "x", "adress": "x"}"#;
    check("POST", "/api/v1/peers", JSON, misspelt, (400, "invalid_body", "adress")).await;
    check("POST", "/api/v1/peers", &[], "{}", (415, "unsupported_media_type", "content-type")).await;
    let large = " ".repeat(BODY_BYTES_MAX + 1);
    check("POST", "/api/v1/peers", JSON, &large, (413, "body_too_large", "4096 KiB")).await;
    check("POST", "/api/v1/peers", JSON, r#"{"address": "a b"}"#, (422, "invalid_address", "`a b`")).await;
    check("GET", "/api/v1/remote-workspaces?peer=carl", &[], "", (404, "no_such_peer", "`carl`")).await;
    for path in ["/api/v1/mounts", "/api/v1/clones"] {
        let lost = (404, "no_such_remote_workspace", "`demo` (0 asked)");
        check("POST", path, JSON, r#"{"workspace": "demo"}"#, lost).await;
        check("POST", path, JSON, r#"{"workspace": "carl/demo"}"#, (404, "no_such_peer", "`carl`")).await;
        check("POST", path, JSON, r#"{"workspace": "a/"}"#, (422, "invalid_name", "name for a workspace"))
            .await;
        let relative = r#"{"workspace": "demo", "directory": "x"}"#;
        check("POST", path, JSON, relative, (422, "relative_path", "`x`")).await;
        let forever = r#"{"workspace": "demo", "when_gone": "forever"}"#;
        check("POST", path, JSON, forever, (422, "invalid_when_gone", "wait")).await;
    }
    for name in ["none", "-wrong"] {
        let path = format!("/api/v1/workspaces/{name}");
        check("GET", &path, &[], "", (404, "no_such_workspace", "no workspace")).await;
    }
    let create = |directory: &str| format!(r#"{{"directory": "{directory}"}}"#);
    check("POST", "/api/v1/workspaces", JSON, &create("x"), (422, "relative_path", "`x`")).await;
    check("POST", "/api/v1/workspaces", JSON, &create("/no/such"), (422, "unusable_place", "/no/such")).await;
    let named = r#"{"directory": "/usr", "name": "a b"}"#;
    check("POST", "/api/v1/workspaces", JSON, named, (422, "invalid_name", "`a b`")).await;
    for (method, path) in [("DELETE", ""), ("PUT", "/share"), ("DELETE", "/share")] {
        let path = format!("/api/v1/workspaces/none{path}");
        check(method, &path, JSON, "{}", (404, "no_such_workspace", "no workspace")).await;
    }
    let run = |workspace: &str| format!(r#"{{"workspace": "{workspace}", "command": ["true"]}}"#);
    check("POST", "/api/v1/runs", JSON, &run("none"), (404, "not_here", "`none`")).await;
    check("POST", "/api/v1/runs", JSON, &run("/none"), (404, "not_in_workspace", "/none")).await;
    check("POST", "/api/v1/runs", JSON, &run("demo"), (409, "ambiguous_name", "/nowhere/busy")).await;
    check("POST", "/api/v1/runs", JSON, &run("a b"), (422, "invalid_name", "`a b`")).await;
    check("GET", "/api/v1/operations/x?wiat=1", &[], "", (400, "invalid_query", "wiat")).await;
}

#[tokio::test]
async fn busy_says_who() {
    let (parts, body) = send("DELETE", "/api/v1/mounts/busy", &[], "").await;
    let problem = problem(&parts, &body);
    assert_eq!((problem.code.as_str(), problem.users), ("busy", vec!["bash (pid 4711) in src/".to_owned()]));
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let (parts, _) = send("PATCH", "/api/v1/operations/x", &[], "").await;
    let allowed: BTreeSet<_> =
        parts.headers[header::ALLOW].to_str().unwrap().split(',').map(str::to_owned).collect();
    assert_eq!(allowed, ["GET", "HEAD", "DELETE"].map(str::to_owned).into());
}

#[tokio::test]
async fn good_answers_are_json_with_an_id() {
    for path in [
        "/health",
        "/version",
        "/openapi.json",
        "/peers",
        "/remote-workspaces",
        "/mounts",
        "/clones",
        "/operations",
        "/mounts/view",
    ] {
        let (parts, body) = send("GET", &format!("{BASE_PATH}{path}"), &[], "").await;
        assert_eq!(parts.status, 200, "{path}");
        assert_eq!(parts.headers["content-type"], "application/json", "{path}");
        assert!(parts.headers.contains_key("x-request-id"), "{path}");
        assert!(serde_json::from_slice::<Value>(&body).unwrap().is_object(), "{path}");
    }
    let (parts, body) = send("DELETE", "/api/v1/mounts/view", &[], "").await;
    assert_eq!((parts.status.as_u16(), body.len()), (204, 0));
}

#[test]
fn every_route_is_in_the_openapi_document_and_no_other() {
    let document = serde_json::to_value(Document::openapi()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["servers"][0]["url"], BASE_PATH);
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            documented.insert((method.to_uppercase(), path.clone()));
        }
    }
    let routes: BTreeSet<_> =
        table().into_iter().map(|(method, path, _)| (method.to_string(), path.to_owned())).collect();
    assert_eq!(documented, routes);
}

#[test]
fn every_reference_in_the_openapi_document_leads_somewhere() {
    let document = serde_json::to_value(Document::openapi()).unwrap();
    let mut open = vec![&document];
    let mut references = 0;
    while let Some(value) = open.pop() {
        match value {
            Value::Object(fields) => {
                if let Some(Value::String(reference)) = fields.get("$ref") {
                    assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
                    references += 1;
                }
                open.extend(fields.values());
            }
            Value::Array(items) => open.extend(items),
            _ => {}
        }
    }
    assert!(references > 10);
}
