//! The API's description for programs (OpenAPI 3.1): what the routes say of themselves, and what is true of all of them.

use axum::http::StatusCode;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};
use utoipa::openapi::{Content, OpenApi as Description, Ref, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi, PartialSchema as _};

use super::error::{PROBLEM_JSON, Problem};
use super::session::COOKIE_NAME;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Causeway",
        description = "Devices pair, get their certificates, report their addresses and keep their names up to date; the operator sees them.",
    ),
    modifiers(&Shared)
)]
pub(super) struct Document;

/// What several routes refer to.
struct Shared;

impl Modify for Shared {
    fn modify(&self, document: &mut Description) {
        let components = document.components.get_or_insert_default();
        components
            .schemas
            .insert("Problem".to_owned(), Problem::schema());
        let signature = ApiKey::Header(ApiKeyValue::with_description(
            "Signature",
            "HTTP Message Signatures (RFC 9421): Ed25519 over @method, @target-uri and content-digest, with created, \
             nonce, keyid (the public key, base64url) and alg.",
        ));
        components.add_security_scheme("device_signature", SecurityScheme::ApiKey(signature));
        let session = ApiKey::Cookie(ApiKeyValue::new(COOKIE_NAME));
        components.add_security_scheme("operator_session", SecurityScheme::ApiKey(session));
    }
}

/// What every route can answer, whatever it does.
const ALWAYS: [StatusCode; 3] = [
    StatusCode::REQUEST_TIMEOUT,
    StatusCode::PAYLOAD_TOO_LARGE,
    StatusCode::SERVICE_UNAVAILABLE,
];

/// Adds what is true of all routes.
pub(super) fn complete(document: &mut Description) {
    let paths = document.paths.paths.values_mut();
    for operation in paths.flat_map(operations) {
        let responses = &mut operation.responses.responses;
        for status in ALWAYS {
            responses.insert(status.as_str().to_owned(), problem(status).into());
        }
        for (status, response) in responses {
            if let RefOr::T(response) = response
                && status.starts_with(['4', '5'])
                && let Some(content) = response.content.shift_remove("application/json")
            {
                response.content.insert(PROBLEM_JSON.to_owned(), content);
            }
        }
    }
}

fn operations(path: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [
        &mut path.get,
        &mut path.put,
        &mut path.post,
        &mut path.patch,
        &mut path.delete,
    ]
    .into_iter()
    .flatten()
}

fn problem(status: StatusCode) -> Response {
    let schema = RefOr::Ref(Ref::from_schema_name("Problem"));
    ResponseBuilder::new()
        .description(status.canonical_reason().unwrap_or_default())
        .content(PROBLEM_JSON, Content::new(Some(schema)))
        .build()
}
