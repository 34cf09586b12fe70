//! What the API refuses, it refuses in one form and counts.

use crate::process::output_of;
use crate::world::Server;

/// The answer's status, content type and body.
fn ask(server: &Server, path: &str, options: &[&str]) -> (String, String) {
    let mut curl = server.curl();
    curl.args(["--write-out", "\n%{http_code} %{content_type}"]);
    curl.args(options).arg(server.url("cloud", path));
    let said = output_of(curl);
    let (body, head) = said.rsplit_once('\n').unwrap();
    (head.to_owned(), body.to_owned())
}

#[test]
fn every_refusal_of_the_api_is_a_problem_and_is_counted() {
    let server = Server::start();
    let long = server.folder.path().join("long");
    std::fs::write(&long, vec![b' '; 65 * 1024]).unwrap();
    let long = format!("@{}", long.display());
    let same_origin = ["--header", "Sec-Fetch-Site: same-origin"];
    let no_json = [&same_origin[..], &["--data-binary", "no JSON"]].concat();
    let too_long = [&same_origin[..], &["--data-binary", &long]].concat();
    for (path, options, status, code) in [
        ("/api/devices", &[][..], 401, "not_signed_in"),
        ("/api/nothing", &[], 404, "no_route"),
        ("/api/session", &no_json, 400, "bad_request"),
        ("/api/session", &too_long, 413, "too_long"),
    ] {
        let counter = format!("causeway_control_refusals_total{{code=\"{code}\"}}");
        let before = server.metric(&counter);
        let (head, body) = ask(&server, path, options);
        assert_eq!(head, format!("{status} application/problem+json"), "{code}");
        assert!(body.contains(&format!(r#""code":"{code}""#)), "{body}");
        assert_eq!(server.metric(&counter), before + 1, "{code}");
    }
    // Who only looks at the page that says how to sign in is not refused anything.
    let counter = "causeway_control_refusals_total{code=\"not_signed_in\"}";
    let before = server.metric(counter);
    ask(&server, "/", &[]);
    assert_eq!(server.metric(counter), before);
}

#[test]
fn the_description_says_how_to_prove_oneself_and_what_may_be_refused() {
    let server = Server::start();
    let (_, body) = ask(&server, "/api/openapi.json", &[]);
    let description: serde_json::Value = serde_json::from_str(&body).unwrap();
    let schemes = &description["components"]["securitySchemes"];
    assert_eq!(schemes["operator_session"]["in"], "cookie");
    assert_eq!(schemes["device_signature"]["in"], "header");
    let pair = &description["paths"]["/api/pair"]["post"];
    assert!(pair["security"][0]["device_signature"].is_array(), "{pair}");
    for path in description["paths"].as_object().unwrap().values() {
        for operation in path.as_object().unwrap().values() {
            let responses = operation["responses"].as_object().unwrap();
            for status in ["408", "413", "503"] {
                assert!(responses.contains_key(status), "{operation}");
            }
            for (status, response) in responses {
                let types = response["content"].as_object();
                let types: Vec<_> = types.into_iter().flat_map(|types| types.keys()).collect();
                if status.starts_with('4') {
                    assert_eq!(types, ["application/problem+json"], "{operation}");
                }
            }
        }
    }
}
